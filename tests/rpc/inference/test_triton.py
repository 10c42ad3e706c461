"""The stock `tritonclient`, unchanged, in all its forms of calling."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from conveyor.inference import inference_service_pb2, model_pb2
from tests.rpc.inference.alone import Alone
from tests.rpc.inference.models import make_stateless_model
from tests.rpc.inference.triton import Triton, request

NUM_SEQUENCES, NUM_STEPS = 5, 7
TOLERANCE = 1e-5

# For each model its input, and the shape of one step of one sequence: for the graph, and in messages.
LAYOUTS = {
    "tiny": ("tokens", (1, 1)),
    "frames": ("features", (1, 1, 3)),
    "single": ("features", (1, 3)),
    "lone": ("features", (1, 1, 3)),
    "counting": ("tokens", (1, 1)),
}


def sequences_of(model: str) -> list[list[np.ndarray]]:
    """Random inputs: for each sequence an array for each step."""
    name, shape = LAYOUTS[model]
    random = np.random.default_rng(7)
    steps = (NUM_SEQUENCES, NUM_STEPS, *shape)
    values = random.integers(0, 20, steps) if name == "tokens" else random.normal(size=steps).astype(np.float32)
    return [list(sequence) for sequence in values]


def interleaved(model: str, sequences: list[list[np.ndarray]], id_of: Any) -> list[dict[str, Any]]:
    """The requests of all sequences, a step of each in turn."""
    return [
        request(
            model,
            id_of(number),
            sequence_start=step == 0,
            sequence_end=step == NUM_STEPS - 1,
            request_id=f"{number}-{step}",
            **{LAYOUTS[model][0]: sequences[number][step]},
        )
        for step in range(NUM_STEPS)
        for number in range(len(sequences))
    ]


def assert_alone(models: Path, model: str, sequences: list[list[np.ndarray]], results: list[dict[str, Any]]) -> None:
    """Each sequence got what it gets alone in plain ONNX Runtime."""
    alone = Alone(models / model / "1" / "model.onnx")
    by_id = {result["id"]: result for result in results}
    for number, sequence in enumerate(sequences):
        expected = alone.run([{LAYOUTS[model][0]: array} for array in sequence])
        for step, output in enumerate(expected):
            (got,) = by_id[f"{number}-{step}"]["outputs"].values()
            np.testing.assert_allclose(np.ravel(got), output.ravel(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("model", LAYOUTS)
def test_streamed_sequences_are_as_alone(models: Path, triton: Triton, model: str) -> None:
    """Interleaved on one stream, each is what plain ONNX Runtime gives, and answers come in the requests' order."""
    sequences = sequences_of(model)
    requests = interleaved(model, sequences, lambda number: number + 1)

    results = triton("stream", requests=requests)

    assert [result["id"] for result in results] == [each["options"]["request_id"] for each in requests]
    assert all(result["is_final"] for result in results)  # what clients of decoupled models read on for
    assert_alone(models, model, sequences, results)


@pytest.mark.parametrize("call", ["infer", "aio_stream"])
def test_every_form_of_call_steps_sequences(models: Path, triton: Triton, call: str) -> None:
    """Unary calls and the asyncio stream do what the stream does, with textual ids too."""
    sequences = sequences_of("tiny")

    results = triton(call, requests=interleaved("tiny", sequences, lambda number: f"{call}-{number}"))

    assert_alone(models, "tiny", sequences, results)


def test_unary_calls_side_by_side(models: Path, triton: Triton) -> None:
    """Calls in flight together are of different sequences, one step of each at a time."""
    sequences = sequences_of("frames")
    requests = interleaved("frames", sequences, lambda number: number + 100)
    rounds = [requests[i : i + NUM_SEQUENCES] for i in range(0, len(requests), NUM_SEQUENCES)]

    results = [
        result
        for number, together in enumerate(rounds)
        for result in triton("async_infer" if number % 2 else "aio_infer", requests=together)
    ]

    assert_alone(models, "frames", sequences, results)


def test_a_chunk_of_steps_is_one_request(models: Path, triton: Triton) -> None:
    """The time axis takes any number of steps, in any division."""
    tokens = np.random.default_rng(1).integers(0, 20, (1, 9))
    (expected,) = Alone(models / "tiny" / "1" / "model.onnx").run([{"tokens": tokens.T}])

    first, second = triton(
        "infer",
        requests=[
            request("tiny", 9, sequence_start=True, tokens=tokens[:, :4]),
            request("tiny", 9, sequence_end=True, tokens=tokens[:, 4:]),
        ],
    )

    logits = np.concatenate([result["outputs"]["logits"] for result in (first, second)], axis=1)
    np.testing.assert_allclose(logits, expected.transpose(1, 0, 2), rtol=0, atol=TOLERANCE)


def test_stateless_requests_need_no_sequence(triton: Triton) -> None:
    """A batch is split into rows that run together with other requests'."""
    batches = [np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32) for n in (1, 4, 2)]
    reference = make_stateless_model()[1]

    results = triton("stream", requests=[request("stateless", x=batch) for batch in batches])

    for batch, result in zip(batches, results, strict=True):
        assert list(result["outputs"]) == ["y"]
        np.testing.assert_allclose(result["outputs"]["y"], reference(batch), rtol=1e-6)


def test_an_error_leaves_stream_and_sequence(triton: Triton) -> None:
    """It comes in its request's place; the sequence goes on as if the request had never been."""
    token = np.array([[3]])
    requests = [
        request("tiny", "bad", sequence_start=True, tokens=token),
        request("tiny", "bad", tokens=np.array([[99]])),
        request("tiny", "bad", sequence_end=True, tokens=token),
        request("tiny", "good", sequence_start=True, tokens=np.array([[3, 3]])),
    ]

    first, failed, second, whole = triton("stream", requests=requests)

    assert "token 99 is outside 0 to 19" in failed["error"]
    logits = np.concatenate([result["outputs"]["logits"] for result in (first, second)], axis=1)
    np.testing.assert_allclose(logits, whole["outputs"]["logits"], rtol=0, atol=TOLERANCE)


def test_the_words_that_clients_look_for(triton: Triton) -> None:
    """A sequence that is not named, not begun, or ended, is told of in Triton's words."""
    token = np.array([[3]])
    requests = [
        request("tiny", tokens=token),
        request("tiny", 77, tokens=token),
        request("tiny", 77, sequence_start=True, sequence_end=True, tokens=token),
        request("tiny", 77, tokens=token),
    ]

    unnamed, unknown, _, ended = triton("infer", requests=requests)

    assert "must specify a non-zero or non-empty correlation ID" in unnamed["error"]
    assert "must specify the START flag on the first request of the sequence" in unknown["error"]
    assert "must specify the START flag on the first request of the sequence" in ended["error"]


def test_controls_are_filled(triton: Triton) -> None:
    """A model that wants to know where a sequence begins and ends, and which it is, is told."""
    x = np.ones((1, 2, 1), np.float32)

    results = triton(
        "stream",
        requests=[
            request("control", 12, sequence_start=True, x=x),
            request("control", 12, sequence_end=True, x=x),
            request("control", "twelve", sequence_start=True, x=x),
        ],
    )

    rows = [row for result in results[:2] for row in result["outputs"]["y"][0]]
    assert rows == [[1, 1, 0, 1, 12], [2, 0, 0, 1, 12], [3, 0, 0, 1, 12], [4, 0, 1, 1, 12]]
    assert "takes it as a number" in results[2]["error"]
    assert [each["name"] for each in triton("describe", model="control")["metadata"]["inputs"]] == ["x"]


def test_a_model_is_described(triton: Triton) -> None:
    """Inputs and outputs and no state; the configuration says that there are sequences."""
    told = triton("describe", model="tiny")

    assert (told["live"], told["ready"], told["model_ready"], told["other_ready"]) == (True, True, True, False)
    assert told["server"]["name"] == "conveyor"
    assert {"sequence", "statistics"} <= set(told["server"]["extensions"])
    assert told["metadata"]["versions"] == ["1"]
    assert told["metadata"]["inputs"] == [{"name": "tokens", "datatype": "INT64", "shape": ["-1", "-1"]}]
    assert told["metadata"]["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": ["-1", "-1", "20"]}]
    assert told["config"]["max_batch_size"] == 8
    assert told["config"]["input"] == [{"name": "tokens", "data_type": "TYPE_INT64", "dims": ["-1"]}]
    assert told["config"]["sequence_batching"]["max_sequence_idle_microseconds"] == "600000000"
    assert {"name": "tiny", "version": "1", "state": "READY"} in told["index"]


def test_requests_and_runs_are_counted(triton: Triton) -> None:
    """Successes, failures, runs and their sizes, each with the time that it took."""
    before = triton("statistics", model="single")
    features = np.ones((1, 3), np.float32)
    requests = [request("single", 1, sequence_start=step == 0, features=features) for step in range(4)]
    triton("infer", requests=[*requests, request("single", 5, features=features)])

    after = triton("statistics", model="single")

    def gained(part: str) -> int:
        counts = [int(stats["inference_stats"][part].get("count", 0)) for stats in (before, after)]
        return counts[1] - counts[0]

    assert (gained("success"), gained("fail"), gained("queue"), gained("compute_infer")) == (4, 1, 4, 4)
    assert int(after["execution_count"]) - int(before.get("execution_count", 0)) == 4
    assert int(after["inference_count"]) - int(before.get("inference_count", 0)) == 4
    assert all(int(part["ns"]) > 0 for part in after["inference_stats"].values() if part)
    assert sum(int(size["compute_infer"]["count"]) for size in after["batch_stats"]) == int(after["execution_count"])


@pytest.mark.parametrize(
    ("call", "arguments", "status", "text"),
    [
        ("get_system_shared_memory_status", (), "UNIMPLEMENTED", "shared memory"),
        ("register_system_shared_memory", ("a", "b", 1), "UNIMPLEMENTED", "shared memory"),
        ("unregister_cuda_shared_memory", ("a",), "UNIMPLEMENTED", "shared memory"),
        ("get_trace_settings", (), "UNIMPLEMENTED", "traces"),
        ("get_log_settings", (), "UNIMPLEMENTED", "log"),
        ("load_model", ("none",), "NOT_FOUND", "no model 'none' in the server's folder"),
        ("load_model", ("tiny", None, "{}"), "UNIMPLEMENTED", "parameters"),
        ("unload_model", ("none",), "NOT_FOUND", "no model 'none' is loaded"),
        ("get_model_metadata", ("none",), "NOT_FOUND", "'none'"),
        ("get_model_metadata", ("tiny", "one"), "INVALID_ARGUMENT", "version"),
    ],
)
def test_what_is_refused_is_told(triton: Triton, call: str, arguments: Any, status: str, text: str) -> None:
    """What is not served has a status and a sentence."""
    got, message = triton("refused", call=call, arguments=arguments)

    assert got == f"StatusCode.{status}"
    assert text in message


def test_models_are_loaded_and_unloaded(triton: Triton) -> None:
    """Clients that load before they use are not disappointed, nor are those that unload."""
    for call in ("load_model", "unload_model", "load_model"):
        assert triton("refused", call=call, arguments=("tiny",)) is None


def test_the_messages_are_the_public_ones(triton: Triton) -> None:
    """All names, numbers and types in our protos are those of the stock client, and the calls are the same."""
    pool = descriptor_pool.DescriptorPool()
    for serialized in triton("descriptors"):
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(bytes.fromhex(serialized)))
    theirs = pool.FindServiceByName("inference.GRPCInferenceService")
    ours = inference_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    assert {call_of(method) for method in ours.methods} == {call_of(method) for method in theirs.methods}
    files = {*inference_service_pb2.DESCRIPTOR.dependencies, *model_pb2.DESCRIPTOR.dependencies}
    assert len(files) == 7
    for file in files:
        for message in file.message_types_by_name.values():
            assert_same_fields(message, pool.FindMessageTypeByName(message.full_name))
        for enum in file.enum_types_by_name.values():
            numbers = {value.name: value.number for value in pool.FindEnumTypeByName(enum.full_name).values}
            assert {value.name: value.number for value in enum.values}.items() <= numbers.items()


def call_of(method: MethodDescriptor) -> tuple[str, str, str, bool, bool]:
    streams = method.client_streaming, method.server_streaming
    return method.name, method.input_type.full_name, method.output_type.full_name, *streams


def assert_same_fields(ours: Descriptor, theirs: Descriptor) -> None:
    for field in ours.fields:
        assert form_of(field) == form_of(theirs.fields_by_name[field.name]), field.full_name
    for nested in ours.nested_types:
        assert_same_fields(nested, theirs.nested_types_by_name[nested.name])


def form_of(field: FieldDescriptor) -> tuple[int, int, bool, str | None]:
    return field.number, field.type, field.is_repeated, field.message_type.full_name if field.message_type else None
