"""Models that come, change and go while the server runs."""

import asyncio
import json
import os
import random
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conveyor.engine.aliases import Alias, shared_version
from conveyor.server import Server
from conveyor.v1 import model_pb2, sequence_service_pb2_grpc, session_pb2, step_pb2
from tests.foreign import make_bomb, make_endless, save_foreign
from tests.processes import are_gone, trials_of
from tests.rpc.conftest import StartServer
from tests.rpc.requests import failure_of, open_session, step, until
from tests.rpc.shelf import Shelf, Walker, list_models, load, version_model, versions

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """A repository with version 1 of `lm`."""
    shelf = Shelf(tmp_path)
    shelf.add(1)
    return shelf


@pytest.fixture
def models(shelf: Shelf) -> Path:
    """What servers serve here."""
    return shelf.root


async def health(channel: grpc.aio.Channel, name: str = "lm") -> int:
    """What probes are told."""
    request = health_pb2.HealthCheckRequest(service=name)
    return int((await health_pb2_grpc.HealthStub(channel).Check(request)).status)


def unload(stub: Any, version: int = 0, seconds: int | None = None) -> Any:
    """Has the server unload `lm`."""
    request = model_pb2.UnloadModelRequest(name="lm", version=version)
    if seconds is not None:
        request.timeout.CopyFrom(Duration(seconds=seconds))
    return stub.UnloadModel(request)


async def until_versions(stub: Any, expected: dict[int, str]) -> None:
    """Waits until these are loaded."""
    while await versions(stub) != expected:
        await asyncio.sleep(0.01)


async def test_a_new_version_takes_the_new_sessions(shelf: Shelf, stub: Any) -> None:
    """Those of the old one go on there; when the last of them is over it is unloaded."""
    old = await Walker(stub).open()
    shelf.add(2)

    assert await load(stub) == [1, 2]
    new = await Walker(stub).open()
    await old.advance()

    assert (old.version, new.version) == (1, 2)
    assert await versions(stub) == {1: "retired", 2: "ready"}
    assert (await failure_of(open_session(stub, model="lm", model_version=1))).code is grpc.StatusCode.NOT_FOUND
    await old.close()
    await until_versions(stub, {2: "ready"})
    await new.close()
    assert old.failure is new.failure is None


async def test_the_old_version_ends_in_its_time(shelf: Shelf, start: StartServer) -> None:
    """After the server's `unload_timeout`, sessions that are still there are ended, and their streams are told."""
    server = await start(unload_timeout=0.2)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        session = await open_session(stub, model="lm")
        call = stub.Stream()
        await call.write(step_pb2.StreamRequest(chunks=[{"session_id": session, "tokens": [1, 2]}]))
        assert (await call.read()).results[0].position == 2
        shelf.add(2)
        await load(stub)
        (end,) = (await call.read()).ended

        assert (end.session_id, end.position, end.reason) == (session, 2, session_pb2.END_REASON_UNLOADED)
        await until_versions(stub, {2: "ready"})
        call.cancel()


@pytest.mark.parametrize("change", ["nothing", "touched", "written again"])
async def test_the_same_model_keeps_every_session(shelf: Shelf, stub: Any, server: Any, change: str) -> None:
    """Loading what is loaded does nothing, whatever the time of the file."""
    walker, engine = await Walker(stub).open(), server.engines.of_model("lm")
    if change == "touched":
        os.utime(shelf.path / "1" / "model.onnx")
    elif change == "written again":
        shelf.add(1)

    assert await load(stub) == [1]
    await walker.advance()

    assert server.engines.of_model("lm") is engine
    await walker.close()
    assert walker.failure is None


async def test_a_version_does_not_change(shelf: Shelf, stub: Any) -> None:
    """Another model under its number is refused while it is loaded, and said; once it is unloaded it is taken."""
    walker = await Walker(stub).open()
    before = (await list_models(stub)).models[0].fingerprint
    shelf.add(1, seed=7)
    refused = await failure_of(load(stub))
    await walker.advance()

    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert f"from fingerprint {before} to " in refused.message
    assert "give the new file a version of its own" in refused.message
    (problem,) = (await list_models(stub)).problems
    assert (problem.name, problem.version) == ("lm", 1)
    await walker.close()
    assert walker.failure is None
    await unload(stub)
    assert await load(stub) == [1]
    after = await list_models(stub)
    assert after.models[0].fingerprint != before
    assert not after.problems


async def test_unloading_waits(stub: Any, channel: grpc.aio.Channel) -> None:
    """Sessions go on for the time given, no more can be opened, probes are told; it is done when the last is over."""
    walker = await Walker(stub).open()
    unloading = asyncio.ensure_future(unload(stub, seconds=30))
    await until_versions(stub, {1: "retired"})
    await walker.advance()
    await walker.advance()

    assert await health(channel) == NOT_SERVING
    assert await health(channel, "") == SERVING
    assert (await failure_of(open_session(stub, model="lm"))).code is grpc.StatusCode.NOT_FOUND
    assert not unloading.done()
    await walker.close()
    assert walker.failure is None
    assert (await unloading).num_ended_sessions == 0
    assert await versions(stub) == {}
    assert await health(channel) == NOT_SERVING
    assert await load(stub) == [1]
    assert await health(channel) == SERVING


async def test_unloading_ends_sessions_in_its_time(stub: Any) -> None:
    """At once, if it is told so: work that was accepted is finished, and how many sessions it cost is said."""
    session, other = await open_session(stub, model="lm"), await open_session(stub, model="lm")
    call = stub.Stream()
    await call.write(step_pb2.StreamRequest(chunks=[{"session_id": session, "tokens": [1] * 3000}]))
    while not (await list_models(stub)).models[0].num_sessions:
        pass
    ended = (await unload(stub, seconds=0)).num_ended_sessions
    responses = [await call.read()]
    while not responses[-1].ended:
        responses.append(await call.read())

    assert ended == 2
    assert [result.position for response in responses for result in response.results] == [3000]
    assert [(end.session_id, end.reason) for end in responses[-1].ended] == [(session, session_pb2.END_REASON_UNLOADED)]
    assert (await failure_of(step(stub, other, [1]))).code is grpc.StatusCode.NOT_FOUND
    call.cancel()


async def test_a_shorter_time_counts(stub: Any) -> None:
    """Unloading that is under way is hurried by a call that waits less, and both are answered."""
    await open_session(stub, model="lm")
    patient = asyncio.ensure_future(unload(stub, seconds=600))
    await until_versions(stub, {1: "retired"})

    assert (await unload(stub, seconds=0)).num_ended_sessions == 1
    assert (await patient).num_ended_sessions == 1


async def test_a_model_that_leaves_can_be_called_back(stub: Any) -> None:
    """Its sessions notice nothing, and whoever waits for it to be unloaded is told."""
    walker = await Walker(stub).open()
    unloading = asyncio.ensure_future(unload(stub, seconds=600))
    await until_versions(stub, {1: "retired"})

    assert await load(stub) == [1]
    assert (await failure_of(unloading)).code is grpc.StatusCode.ABORTED
    await (await Walker(stub).open()).close()
    await walker.close()
    assert walker.failure is None


async def test_stored_sessions_outlive_their_models_unloading(stub: Any, start: StartServer, tmp_path: Path) -> None:
    """Spilled or not, they cannot be stepped meanwhile, and are told why; loaded again, they go on."""
    server = await start(store="sqlite", state_dir=tmp_path / ".state", num_slots=2, max_batch=1)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        walkers = [await Walker(stub).open() for _ in range(5)]
        for walker in walkers:
            await walker.advance()
        assert server.engines.of_model("lm").stats().num_spilled
        assert (await unload(stub, seconds=0)).num_ended_sessions == 5
        for walker in walkers:
            await walker.stop()
            refused = await failure_of(step(stub, walker.session_id, [1], position=walker.position))
            assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
            assert "model lm version 1 is not loaded here: it was unloaded" in refused.message
        await load(stub)
        for walker in walkers:
            await walker.go_on()
            await walker.advance()
            await walker.close()
            assert walker.failure is None


async def test_stored_sessions_wait_for_a_version_that_is_gone(
    shelf: Shelf, start: StartServer, tmp_path: Path
) -> None:
    """A server without it in its folder says so and leaves them alone; put back, it is loaded for them."""
    fields = {"store": "sqlite", "state_dir": tmp_path / ".state"}
    first = await start(**fields)
    async with grpc.aio.insecure_channel(first.address) as channel:
        walker = await Walker(sequence_service_pb2_grpc.SequenceServiceStub(channel)).open()
        await walker.advance()
        await walker.stop()
        await first.drain()
    shelf.add(2)
    shelf.remove(1)
    second = await start(**fields)
    async with grpc.aio.insecure_channel(second.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        refused = await failure_of(walker.go_on(stub))
        assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
        assert "model lm version 1 is not loaded here, and not in the server's folder" in refused.message
        shelf.add(1)
        await walker.go_on(stub)
        await walker.advance()
        await walker.close()
        assert walker.failure is None


async def test_an_old_versions_stored_sessions_bring_it_back(shelf: Shelf, start: StartServer, tmp_path: Path) -> None:
    """A server that starts on a newer version loads the old one for them, and for nobody else."""
    fields = {"store": "sqlite", "state_dir": tmp_path / ".state"}
    first = await start(**fields)
    async with grpc.aio.insecure_channel(first.address) as channel:
        walker = await Walker(sequence_service_pb2_grpc.SequenceServiceStub(channel)).open()
        await walker.advance()
        await walker.stop()
        await first.drain()
    shelf.add(2)
    second = await start(**fields)
    async with grpc.aio.insecure_channel(second.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        assert await versions(stub) == {2: "ready"}
        await walker.go_on(stub)
        await walker.advance()
        assert await versions(stub) == {1: "retired", 2: "ready"}
        new = await Walker(stub).open()
        assert new.version == 2
        for each in (walker, new):
            await each.close()
            assert each.failure is None


async def test_a_bad_model_takes_no_other_down(shelf: Shelf, start: StartServer) -> None:
    """The server starts without it, and says so; mended, it is loaded like a new one."""
    for name, content in (("broken/1/model.onnx", "no model"), ("typed/conveyor.toml", "num_slots = 0")):
        (shelf.root / name).parent.mkdir(parents=True)
        (shelf.root / name).write_text(content)
    (shelf.root / "typed" / "1").mkdir()
    (shelf.path / "1" / "model.onnx").rename(shelf.root / "typed" / "1" / "model.onnx")
    shelf.add(1)
    server = await start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        listed = await list_models(stub)

        assert [(model.name, model.version) for model in listed.models] == [("lm", 1)]
        assert [(each.name, each.version) for each in listed.problems] == [("broken", 1), ("typed", 0)]
        assert "num_slots: must be at least 1, got 0" in listed.problems[1].message
        assert [await health(channel, name) for name in ("", "lm", "typed")] == [SERVING, SERVING, NOT_SERVING]
        (shelf.root / "typed" / "conveyor.toml").unlink()
        assert await load(stub, "typed") == [1]
        assert await health(channel, "typed") == SERVING
        await (await Walker(stub).open()).close()


@pytest.mark.parametrize("problem", ["cannot be read", "settings", "a version that is not there"])
async def test_a_bad_new_version_changes_nothing(shelf: Shelf, stub: Any, problem: str) -> None:
    """What was loaded stays, open to new sessions, and the caller is told why."""
    if problem == "cannot be read":
        shelf.add(2)
        (shelf.path / "2" / "model.onnx").write_bytes(b"no model")
    else:
        shelf.settings("slots = 3" if problem == "settings" else "versions = [3]")
    refused = await failure_of(load(stub))

    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert str(shelf.path) in refused.message or "versions: there is no version 3" in refused.message
    assert await versions(stub) == {1: "ready"}
    walker = await Walker(stub).open()
    await walker.close()
    assert walker.version == 1


async def test_the_latest_that_can_be_served(shelf: Shelf, start: StartServer) -> None:
    """At a start a bad newest version is told of, and the one before it serves; mended, it takes over."""
    for version in (2, 3):
        shelf.add(version)
        (shelf.path / f"{version}" / "model.onnx").write_bytes(b"no model")
    server = await start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        assert await versions(stub) == {1: "ready"}
        assert [(each.name, each.version) for each in (await list_models(stub)).problems] == [("lm", 2), ("lm", 3)]
        assert await health(channel) == SERVING
        walker = await Walker(stub).open()
        shelf.add(2)
        assert f"{shelf.path}/3/model.onnx: not an ONNX file" in (await failure_of(load(stub))).message
        assert await versions(stub) == {1: "retired", 2: "ready"}
        assert [each.version for each in (await list_models(stub)).problems] == [3]
        shelf.add(3)
        await load(stub)
        await walker.close()
        assert walker.failure is None
        await until_versions(stub, {3: "ready"})


async def test_polling_goes_on_with_what_is_good(shelf: Shelf, start: StartServer) -> None:
    """A bad version that comes is told of, and nothing else changes; a good one beside it takes over."""
    server = await start(poll_seconds=0.02)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        shelf.add(9)
        (shelf.path / "9" / "model.onnx").write_bytes(b"no model")
        while not (problems := (await list_models(stub)).problems):
            await asyncio.sleep(0.01)
        assert [each.version for each in problems] == [9]
        assert await versions(stub) == {1: "ready"}
        shelf.add(2)
        await until_versions(stub, {2: "ready"})
        assert [each.version for each in (await list_models(stub)).problems] == [9]


async def test_an_older_version_stands_in_for_none_that_is_loaded(shelf: Shelf, stub: Any) -> None:
    """If the newest has changed on disk, it goes on as it was loaded, and the one before it stays away."""
    shelf.add(2)
    await load(stub)
    await until_versions(stub, {2: "ready"})
    shelf.add(2, seed=7)

    assert "has changed" in (await failure_of(load(stub))).message
    assert await versions(stub) == {2: "ready"}


async def test_a_version_that_is_named_and_missing(shelf: Shelf, start: StartServer) -> None:
    """At a start too, a canary that has been taken away takes nobody's sessions, and nothing else down."""
    shelf.settings("aliases = {stable = 1, canary = {version = 5, percent = 100}}")
    server = await start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        walker = await Walker(stub).open()
        await walker.close()
        (problem,) = (await list_models(stub)).problems

    assert walker.version == 1
    assert problem.message == "aliases.canary: there is no version 5"


async def test_an_alias_stays_where_it_can_be_served(shelf: Shelf, stub: Any) -> None:
    """One that is moved to a bad version, or to none, leads where it led; mended, it moves."""
    shelf.settings("aliases = {stable = 1}")
    await load(stub)
    shelf.add(2)
    (shelf.path / "2" / "model.onnx").write_bytes(b"no model")
    for version in (2, 3):
        shelf.settings(f"aliases = {{stable = {version}}}")
        assert (await failure_of(load(stub))).code is grpc.StatusCode.FAILED_PRECONDITION
        for alias in ("", "stable"):
            walker = await Walker(stub).open(model_alias=alias)
            await walker.close()
            assert walker.version == 1
    shelf.add(3)
    await load(stub)
    walker = await Walker(stub).open(model_alias="stable")
    await walker.close()
    assert walker.version == 3


async def test_folders_of_odd_names(shelf: Shelf, start: StartServer) -> None:
    """What cannot be a version, or a model, is told of in any script, and the versions beside it serve."""
    for name in (b"lm/v2", b"lm/01", b"lm/2\xff", b"lm/notes", b"\xff/1"):
        folder = Path(os.fsdecode(os.fsencode(shelf.root) + b"/" + name))
        folder.mkdir(parents=True)
        if b"notes" not in name:
            (folder / "model.onnx").write_bytes(b"no model")
    server = await start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        problems = {each.name: each.message for each in (await list_models(stub)).problems}
        await (await Walker(stub).open()).close()

        assert await versions(stub) == {1: "ready"}
        assert set(problems) == {"lm", "\\xff"}
        assert [name in problems["lm"] for name in ("/v2: ", "/01: ", "/2\\xff: ", "notes")] == [True] * 3 + [False]


async def test_stored_sessions_bring_back_a_version_that_had_none(
    shelf: Shelf, start: StartServer, tmp_path: Path
) -> None:
    """One that left because none of its sessions was here has not had its time: the next that comes finds it."""
    fields = {"store": "sqlite", "state_dir": tmp_path / ".state"}
    first, second = await start(**fields), await start(**fields)
    async with (
        grpc.aio.insecure_channel(first.address) as channel,
        grpc.aio.insecure_channel(second.address) as other,
    ):
        walker = await Walker(sequence_service_pb2_grpc.SequenceServiceStub(channel)).open()
        await walker.advance()
        await walker.stop()
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(other)
        shelf.add(2)
        await load(stub)
        await until_versions(stub, {2: "ready"})
        await first.drain()
        await walker.go_on(stub)
        await walker.advance()
        assert await versions(stub) == {1: "retired", 2: "ready"}
        await walker.close()
        assert walker.failure is None


async def test_a_bad_old_version_is_tried_once(shelf: Shelf, start: StartServer, tmp_path: Path) -> None:
    """Not by each session that was left on it; they are told why, and it is listed. Mended, it is loaded for them."""
    fields = {"store": "sqlite", "state_dir": tmp_path / ".state"}
    first = await start(**fields)
    async with grpc.aio.insecure_channel(first.address) as channel:
        walkers = [await Walker(sequence_service_pb2_grpc.SequenceServiceStub(channel)).open() for _ in range(2)]
        for walker in walkers:
            await walker.advance()
            await walker.stop()
        await first.drain()
    shelf.add(2)
    content = (shelf.path / "1" / "model.onnx").read_bytes()
    (shelf.path / "1" / "model.onnx").write_bytes(b"no model")
    second = await start(**fields)
    async with grpc.aio.insecure_channel(second.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        assert "not an ONNX file" in (await failure_of(walkers[0].go_on(stub))).message
        assert [each.version for each in (await list_models(stub)).problems] == [1]
        (shelf.path / "1" / "model.onnx").write_bytes(content)
        assert "not an ONNX file" in (await failure_of(walkers[1].go_on(stub))).message
        await load(stub)
        for walker in walkers:
            await walker.go_on(stub)
            await walker.advance()
            await walker.close()
            assert walker.failure is None


async def test_a_version_that_ends_while_it_is_called_back(shelf: Shelf, start: StartServer) -> None:
    """Loading that is overtaken by the end of the old sessions' time loads the version anew."""
    server = await start(trial_seconds=60)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        engine = server.engines.of_model("lm")
        await open_session(stub, model="lm")
        os.utime(shelf.path / "1" / "model.onnx")  # so that it is read, which takes longer than the sessions have
        unloading = asyncio.ensure_future(unload(stub, seconds=600))
        await until_versions(stub, {1: "retired"})
        loading = asyncio.ensure_future(load(stub))
        await until(lambda: bool(trials_of(os.getpid())))
        (departure,) = server.repository._departures.values()
        departure.hurry(0)

        assert (await unloading).num_ended_sessions == 1
        assert await loading == [1]
        assert server.engines.of_model("lm") is not engine
        await (await Walker(stub).open()).close()


async def test_a_number_that_is_free_again_is_taken(shelf: Shelf, start: StartServer) -> None:
    """A poll that found another model under the number of one that was leaving loads it when that is gone."""
    server = await start(poll_seconds=0.02)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        walker = await Walker(stub).open()
        shelf.add(1, seed=7)
        while not (await list_models(stub)).problems:
            await asyncio.sleep(0.01)
        before = server.engines.of_model("lm").fingerprint
        shelf.add(2)
        await until_versions(stub, {1: "retired", 2: "ready"})
        shelf.remove(2)
        while not (await list_models(stub)).problems:
            await asyncio.sleep(0.01)
        await walker.close()
        assert walker.failure is None
        await until_versions(stub, {1: "ready"})
        assert server.engines.of_model("lm").fingerprint != before


async def test_hostile_files(shelf: Shelf, start: StartServer) -> None:
    """Whatever is loaded beside it, and whoever it says has written it, a session is answered as if nothing were."""
    server = await start(trial_seconds=3, trial_bytes=6 * 1024**3)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        walker = await Walker(stub).open()
        step = {
            "format": 1,
            "outputs": [{"name": "y"}],
            "states": [{"name": "h", "output": "hn"}],
            "inputs": [{"name": "x"}],
        }
        bomb = make_bomb()
        for role in ("inputs", "outputs", "states"):
            step[role][0] |= {"dtype": "float32", "shape": [3], "axis": {"batch": 0}}
        bomb.metadata_props.add(key="conveyor.signature", value=json.dumps(step))
        garbage = random.Random(0).randbytes(1000)
        for name, content, problem in (
            ("bomb", bomb.SerializeToString(), "Failed to allocate memory"),
            ("endless", make_endless().SerializeToString(), "within 3 s"),
            ("garbage", garbage, "not an ONNX file"),
        ):
            (shelf.root / name / "1").mkdir(parents=True)
            (shelf.root / name / "1" / "model.onnx").write_bytes(content)
            assert problem in (await failure_of(load(stub, name))).message
            await walker.advance()
        await walker.close()
        assert walker.failure is None
        assert len((await list_models(stub)).problems) == 3


async def test_a_server_stops_while_it_loads(shelf: Shelf, start: StartServer) -> None:
    """A file that never ends is given up, and whoever waits for it is told."""
    server = await start(trial_seconds=60)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        save_foreign(shelf.root / "endless" / "1", make_endless())
        loading = asyncio.ensure_future(load(stub, "endless"))
        await until(lambda: bool(trials_of(os.getpid())))
        trials = trials_of(os.getpid())
        await server.drain()

        assert (await failure_of(loading)).code is grpc.StatusCode.UNAVAILABLE
        await until(lambda: are_gone(trials))


async def test_changes_are_found_by_polling(shelf: Shelf, start: StartServer) -> None:
    """A version that is still being copied is left alone; whole, it is loaded. One that is taken away leaves."""
    server = await start(poll_seconds=0.1)
    target = shelf.path / "2" / "model.onnx"
    content = version_model(2)[0].SerializeToString()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        walker = await Walker(stub).open()
        target.parent.mkdir()
        with target.open("wb") as file:
            for part in range(25):
                file.write(content[part * len(content) // 25 : (part + 1) * len(content) // 25])
                file.flush()
                await asyncio.sleep(0.02)
                assert not (await list_models(stub)).problems
        await until_versions(stub, {1: "retired", 2: "ready"})
        shelf.remove(2)
        await until_versions(stub, {1: "ready"})
        shelf.path.rename(shelf.root / ".gone")
        (shelf.root / "other" / "1").mkdir(parents=True)
        (shelf.root / ".gone" / "1" / "model.onnx").rename(shelf.root / "other" / "1" / "model.onnx")
        await until_versions(stub, {1: "retired"})
        await walker.close()
        await until_versions(stub, {})
        assert walker.failure is None


async def test_a_folder_that_is_gone_changes_nothing(shelf: Shelf, start: StartServer) -> None:
    """A volume that is not mounted for a while is no wish to unload."""
    server = await start(poll_seconds=0.02)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        shelf.path.rename(shelf.root / ".gone")
        await asyncio.sleep(0.2)
        assert await versions(stub) == {1: "ready"}
        refused = await failure_of(load(stub))
        assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
        assert "has no models" in refused.message


async def test_loading_goes_on_without_its_caller(shelf: Shelf, stub: Any, server: Server) -> None:
    """Whoever asks for it may hang up."""
    shelf.add(2)
    call = stub.LoadModel(model_pb2.LoadModelRequest(name="lm"))
    await until(lambda: server.metrics.calls["LoadModel"] == 1)
    call.cancel()

    await until_versions(stub, {2: "ready"})


async def test_aliases_share_out_the_sessions(shelf: Shelf, stub: Any) -> None:
    """By id, as the rule says, so that another server would do the same; an alias that is named goes before it."""
    shelf.add(2)
    shelf.settings("aliases = {stable = 1, canary = {version = 2, percent = 40}}")
    await load(stub)
    rule = {"stable": Alias(1), "canary": Alias(2, 40)}
    opened = {}
    for number in range(40):
        request = session_pb2.OpenSessionRequest(session_id=f"session-{number}")
        opened[request.session_id] = (await stub.OpenSession(request)).session.model_version

    assert set(opened.values()) == {1, 2}
    assert opened == {session_id: shared_version(rule, "lm", session_id) for session_id in opened}
    for alias, version in (("stable", 1), ("canary", 2)):
        walker = await Walker(stub).open(model_alias=alias)
        await walker.close()
        assert walker.version == version
    models = (await list_models(stub)).models
    assert [[(a.name, a.percent) for a in model.aliases] for model in models] == [[("stable", 0)], [("canary", 40)]]


async def test_models_share_the_room_for_arenas(shelf: Shelf, start: StartServer) -> None:
    """What does not fit any more is refused with the numbers, and harms nobody."""
    server = await start()
    room = 2 * server.engines.of_model("lm").runner.arena_bytes
    bounded = await start(max_arena_bytes=room - 1)
    shelf.add(2)
    async with grpc.aio.insecure_channel(bounded.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        refused = await failure_of(load(stub))

        assert (
            f"its arenas need {room // 2} bytes for 8 slots, and of max_arena_bytes {room // 2 - 1}" in refused.message
        )
        assert await versions(stub) == {1: "ready"}
        shelf.settings("num_slots = 4")
        assert 2 in await load(stub)


@pytest.mark.parametrize(
    ("call", "request_", "code", "text"),
    [
        ("LoadModel", model_pb2.LoadModelRequest(name="none"), "NOT_FOUND", "no model 'none' in the server's folder"),
        ("LoadModel", model_pb2.LoadModelRequest(name="../lm"), "NOT_FOUND", "no model '../lm'"),
        ("UnloadModel", model_pb2.UnloadModelRequest(name="none"), "NOT_FOUND", "no model 'none' is loaded"),
        ("UnloadModel", model_pb2.UnloadModelRequest(name="lm", version=3), "NOT_FOUND", "'lm' version 3 is loaded"),
        (
            "UnloadModel",
            model_pb2.UnloadModelRequest(name="lm", timeout=Duration(seconds=-1)),
            "INVALID_ARGUMENT",
            "timeout: must be at least 0 s",
        ),
        (
            "OpenSession",
            session_pb2.OpenSessionRequest(model_version=1, model_alias="a"),
            "INVALID_ARGUMENT",
            "model_alias: a version is given too",
        ),
        ("OpenSession", session_pb2.OpenSessionRequest(model_alias="a"), "NOT_FOUND", "has no alias 'a'"),
    ],
)
async def test_what_cannot_be_done_is_told(stub: Any, call: str, request_: Any, code: str, text: str) -> None:
    """With the field, or with what there is."""
    refused = await failure_of(getattr(stub, call)(request_))

    assert refused.code is grpc.StatusCode[code]
    assert text in refused.message
