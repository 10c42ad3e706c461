"""The server as a whole: starting, refusing to start, draining, and a process that is told to stop."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conveyor.graph.errors import ModelError
from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor.v1 import generate_pb2, sequence_service_pb2_grpc, session_pb2, step_pb2
from tests.foreign import make_endless, save_foreign
from tests.models import make_context_model, make_model, save_model
from tests.processes import are_gone, trials_of
from tests.rpc.requests import failure_of, open_session, read_all, until


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one model."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "tiny" / "1", make_model()[0])
    return folder


def local(models: Path, **settings: Any) -> Settings:
    """Settings on free ports."""
    return Settings(
        **{
            "models": models,
            "port": 0,
            "metrics_port": 0,
            "num_threads": 1,
            "trial_seconds": 0,
            "store": "none",
            **settings,
        }
    )


async def test_work_that_was_accepted_is_finished(models: Path) -> None:
    """A drain lets a running chunk answer, refuses new work and sessions, tells streams of the ends and ends them."""
    server = await start_server(local(models, max_run_steps=1, max_chunk_steps=20_000))
    engine = server.engines.of_model("tiny")
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        session, other = await open_session(stub), await open_session(stub)
        call, silent = stub.Stream(), stub.Stream()
        await call.write(step_pb2.StreamRequest(chunks=[{"session_id": session, "tokens": [1] * 5000}]))
        await until(lambda: engine.stats().num_waiting == 1)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        refused = await failure_of(open_session(stub))
        await call.write(step_pb2.StreamRequest(chunks=[{"session_id": other, "tokens": [1], "request_id": 1}]))
        responses: list[step_pb2.StreamResponse] = []
        failure = await failure_of(read_all(call, responses))
        silence = await failure_of(silent.read())
        await stopping

    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert refused.retry_seconds is not None
    results = {r.request_id: (r.error.code, r.position) for response in responses for r in response.results}
    assert results == {0: (0, 5000), 1: (14, 0)}
    assert [(end.session_id, end.reason, end.position) for response in responses for end in response.ended] == [
        (session, session_pb2.END_REASON_DRAINED, 5000)
    ]
    assert failure.code is silence.code is grpc.StatusCode.UNAVAILABLE


async def test_a_drain_ends(models: Path) -> None:
    """Work that is not done within the timeout fails, and the server stops."""
    server = await start_server(local(models, drain_timeout=0.05))
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        call = stub.Generate(
            generate_pb2.GenerateRequest(session_id=await open_session(stub), tokens=[1], max_tokens=2**31 - 1)
        )
        await call.read()
        await server.stop()
        await failure_of(read_all(call, []))


async def test_ports_are_free_again(models: Path) -> None:
    """A server that stopped, or could not start, holds neither port."""
    server = await start_server(local(models))
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{server.port}: Address already in use"):
        await start_server(local(models, port=server.port))
    with pytest.raises(
        OSError, match=f"cannot serve metrics on 127.0.0.1:{server.metrics_port}: Address already in use"
    ):
        await start_server(local(models, metrics_port=server.metrics_port))
    await server.stop()
    again = await start_server(local(models, port=server.port, metrics_port=server.metrics_port))
    await again.stop()


async def test_a_broken_model_stops_the_start(models: Path, tmp_path: Path) -> None:
    """The error names its file, and the ports are given up."""
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ModelError, match=re.escape(str(path))):
        await start_server(local(path))


@pytest.mark.parametrize("output", ["h_first", "logits"])
async def test_a_model_that_the_runtime_cannot_load_stops_the_start(output: str, tmp_path: Path) -> None:
    """What runs once and what runs at each step are both told in one line, with the file's name."""
    proto, _ = make_context_model()
    node = next(node for node in proto.graph.node if output in node.output)
    node.op_type, node.domain = "Nonsense", "com.microsoft"
    proto.opset_import.add(domain="com.microsoft", version=1)
    path = save_model(tmp_path / "pictures" / "1", proto)
    with pytest.raises(ModelError, match=re.escape(f"{path}: ONNX Runtime cannot load the graph: ")) as caught:
        await start_server(local(tmp_path))
    assert "\n" not in str(caught.value)


@asynccontextmanager
async def process(*arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`conveyor serve` as an operator starts it."""
    command = Path(sys.executable).with_name("conveyor")
    started = await asyncio.create_subprocess_exec(
        command, "serve", *arguments, stdout=-1, stderr=-1, env={**os.environ, **environment}
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def address_of(server: asyncio.subprocess.Process) -> str:
    """Where it says that it listens."""
    assert server.stdout is not None
    line = (await server.stdout.readline()).decode()
    match = re.fullmatch(r"listening on (127\.0\.0\.1:[1-9]\d*)\n", line)
    assert match, line
    assert re.fullmatch(rb"metrics on http://127\.0\.0\.1:[1-9]\d*/metrics\n", await server.stdout.readline())
    return match[1]


PORTS = ("--port", "0", "--metrics-port", "0", "--num-threads", "1")


async def test_a_process_stops_in_two_stages(models: Path) -> None:
    """SIGTERM lets work go on and health turn; a second signal ends it at once, with status 0."""
    async with (
        process(str(models), *PORTS, CONVEYOR_LOG_FORMAT="json") as server,
        grpc.aio.insecure_channel(await address_of(server)) as channel,
    ):
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        session = await open_session(stub)
        call = stub.Generate(generate_pb2.GenerateRequest(session_id=session, tokens=[1], max_tokens=2**31 - 1))
        await call.read()
        server.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await call.read()).tokens
        server.send_signal(signal.SIGINT)
        out, log = await server.communicate()

    assert server.returncode == 0
    assert out == b""
    assert b'"event": "session opened"' in log
    assert b"Traceback" not in log


async def test_a_process_stops_while_it_tries_a_file(tmp_path: Path) -> None:
    """A file that never ends holds up neither a start that is broken off nor the end of its trial."""
    path = save_foreign(tmp_path, make_endless())
    async with process(str(path), *PORTS, "--trial-seconds", "60") as server:
        while not (trials := trials_of(server.pid)):
            await asyncio.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(server.communicate(), 20)

    assert (server.returncode, log) == (0, b"")
    assert are_gone(trials)


async def test_an_idle_process_stops_at_the_first_signal(models: Path) -> None:
    """Open sessions and streams don't hold it up; each end is in the log with its reason."""
    async with process(str(models), *PORTS) as server, grpc.aio.insecure_channel(await address_of(server)) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        await open_session(stub, "mine")
        stream = stub.Stream()
        await stream.write(step_pb2.StreamRequest())
        server.send_signal(signal.SIGINT)
        _, log = await server.communicate()

    assert server.returncode == 0
    assert b"session closed session_id=mine model=tiny version=1 reason=drained position=0" in log
    assert b"Traceback" not in log


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "problem"),
    [
        (("none", *PORTS), {}, 1, "none: no such file or folder"),
        (
            ("MODELS", "--port", "99999999", "--num-slots", "x"),
            {},
            2,
            "num-slots: must be a whole number, got 'x'; port:",
        ),
        (("MODELS", *PORTS), {"CONVEYOR_NONE": "1"}, 2, "CONVEYOR_NONE is not a setting"),
        (
            ("MODELS", *PORTS, "--host", "203.0.113.1"),
            {},
            1,
            "cannot listen on 203.0.113.1:0: Cannot assign requested address",
        ),
    ],
)
async def test_a_process_says_why_it_does_not_start(
    models: Path, arguments: tuple[str, ...], environment: dict[str, str], status: int, problem: str
) -> None:
    """One line on stderr and a status: 1 if it cannot serve, 2 if it was told nonsense."""
    arguments = tuple(str(models) if argument == "MODELS" else argument for argument in arguments)
    async with process(*arguments, **environment) as server:
        _, log = await server.communicate()

    assert server.returncode == status
    assert problem in log.decode()
    assert log.count(b"\n") == 1
