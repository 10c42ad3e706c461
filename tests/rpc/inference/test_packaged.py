"""Stateful models that packages ship, streamed by the stock client: each sequence is what its file's own loop gives."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copy

import numpy as np
import pytest

from conveyor.cli import main
from tests.client.serving import serving
from tests.packaged import DTLN, SILERO, folder_of, loop_of, make_frames
from tests.rpc.inference.triton import PYTHON, Triton, request, triton_client

NUM_SEQUENCES, NUM_STEPS = 4, 9


@dataclass(frozen=True)
class Packaged:
    """A file of a package; `shape` is its input's for one step of one sequence, `pairs` are for `--state`."""

    place: tuple[str, str]
    file: str
    input: str
    shape: tuple[int, ...]
    states: dict[str, tuple[int, ...]]
    output: str
    pairs: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Where the file is."""
        return folder_of(*self.place) / self.file

    def steps(self, seed: int) -> np.ndarray:
        """`[steps, ...]` of one sequence."""
        frames = make_frames(NUM_STEPS * (seed + 1), seed)[-NUM_STEPS:, : self.shape[-1]]
        return frames.reshape(NUM_STEPS, *self.shape)

    def alone(self, steps: np.ndarray) -> np.ndarray:
        """What plain ONNX Runtime gives to it."""
        inputs = {self.input: steps}
        if self.file == "silero_vad.onnx":
            inputs["sr"] = np.array(16000)
        return loop_of(self.path, inputs, {n: np.zeros(s, np.float32) for n, s in self.states.items()}, self.output)


MODELS = {
    # An `If` for each sample rate; sequences run together.
    "vad": Packaged(SILERO, "silero_vad.onnx", "input", (1, 576), {"state": (2, 1, 128)}, "output"),
    # Two states and a time axis.
    "vad-sequence": Packaged(
        SILERO, "silero_vad_16k_sequence.onnx", "input", (1, 576), dict.fromkeys("hc", (1, 1, 128)), "speech_probs"
    ),
    # The two halves of a denoiser, one sequence a run.
    "spectrum": Packaged(DTLN, "model_1.onnx", "input_2", (1, 1, 257), {"input_3": (1, 2, 128, 2)}, "activation_2"),
    "samples": Packaged(
        DTLN,
        "model_2.onnx",
        "input_4",
        (1, 1, 512),
        {"input_5": (1, 2, 128, 2)},
        "conv1d_3",
        ("--state", "input_5=tf_op_layer_stack_5"),
    ),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """The stock client of a server of these models, each with the signature that `conveyor inspect` proposes."""
    if not PYTHON.exists():
        pytest.skip("tritonclient is not installed: `make install-dev` makes .venv-triton")
    folder = tmp_path_factory.mktemp("packaged")
    for name, model in MODELS.items():
        path = folder / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        copy(model.path, path)
        main(["inspect", str(path), *model.pairs, "--write"])
    written = folder / "vad" / "1" / "signature.json"  # its graph does not say how many samples a step has
    written.write_text(written.read_text().replace("null\n   ]", "576\n   ]", 1))
    with serving(folder, "--store", "none") as server, triton_client(server.address) as triton:
        yield triton


@pytest.mark.parametrize("name", MODELS)
def test_interleaved_sequences_are_as_alone(client: Triton, name: str) -> None:
    """Within 1e-5 of plain ONNX Runtime, a step of each in turn on one stream."""
    model = MODELS[name]
    sequences = [model.steps(seed) for seed in range(NUM_SEQUENCES)]
    requests = [
        request(
            name,
            f"s{number}",
            sequence_start=step == 0,
            sequence_end=step == NUM_STEPS - 1,
            **{model.input: sequence[step]},
        )
        for step in range(NUM_STEPS)
        for number, sequence in enumerate(sequences)
    ]

    results = client("stream", requests=requests)

    expected = np.stack([model.alone(sequence) for sequence in sequences], axis=1)
    got = np.array([result["outputs"][model.output] for result in results]).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    # An answer from another sequence's state, or from none, would be another.
    others = [np.roll(expected, 1, axis=1)[1:], np.stack([model.alone(sequence[1:]) for sequence in sequences], axis=1)]
    assert all(np.abs(other - expected[1:]).max() > 1e-3 for other in others)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_told_of_them(client: Triton, name: str) -> None:
    """The input that a client sends at each step, and no state."""
    told = client("describe", model=name)

    assert [tensor["name"] for tensor in told["metadata"]["inputs"]] == [MODELS[name].input]
    assert not {tensor["name"] for tensor in told["metadata"]["outputs"]} & MODELS[name].states.keys()
    assert "sequence_batching" in told["config"]
