"""Sessions that are stepped all the time while versions come and go."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor.server import Server, start_server
from conveyor.settings import Settings
from conveyor.v1 import model_pb2, sequence_service_pb2_grpc
from tests.rpc.requests import failure_of
from tests.rpc.shelf import Shelf, Walker, load, versions

numbers = st.integers(1, 4)
actions = st.one_of(
    st.tuples(st.just("add"), numbers),
    st.tuples(st.just("spoil"), numbers),
    st.tuples(st.just("remove"), numbers),
    st.tuples(st.just("policy"), st.sampled_from(["latest", "all"])),
    st.tuples(st.just("load")),
    st.tuples(st.just("roll"), numbers),
    st.tuples(st.just("roll"), numbers),
    st.tuples(st.just("roll"), numbers),
    st.tuples(st.just("unload"), numbers),
    st.tuples(st.just("open")),
    st.tuples(st.just("open")),
    st.tuples(st.just("close"), st.integers(0, 9)),
)


class World:
    """A server, its folder and its clients, and what the server is expected to have open."""

    def __init__(self, shelf: Shelf, stub: Any) -> None:
        self.shelf, self.stub = shelf, stub
        self.on_disk, self.policy = {1}, "latest"
        self.bad: set[int] = set()  # of those on disk
        self.open_versions = {1}
        self.walkers: list[Walker] = []
        self.doomed: list[Walker] = []

    async def do_add(self, number: int) -> None:
        if number not in self.on_disk - self.bad:
            self.shelf.add(number)
            self.on_disk.add(number)
            self.bad.discard(number)

    async def do_spoil(self, number: int) -> None:
        if number not in self.on_disk and number not in await versions(self.stub):
            self.shelf.add(number)
            (self.shelf.path / str(number) / "model.onnx").write_bytes(b"no model")
            self.on_disk.add(number)
            self.bad.add(number)

    async def do_remove(self, number: int) -> None:
        if len(self.on_disk) > 1:
            self.shelf.remove(number)
            self.on_disk.discard(number)
            self.bad.discard(number)

    async def do_policy(self, policy: str) -> None:
        self.policy = policy
        self.shelf.settings(f'versions = "{policy}"')

    async def do_load(self) -> None:
        good = self.on_disk - self.bad
        wanted = good if self.policy == "all" else {max(good)} if good else set[int]()
        if tried := {number for number in self.bad if self.policy == "all" or number > max(good, default=0)}:
            refused = await failure_of(load(self.stub))
            assert all(
                f"{self.shelf.path}/{number}/model.onnx: not an ONNX file" in refused.message for number in tried
            )
        else:
            await load(self.stub)
        nothing_leaves = tried and (self.policy == "all" or not good)
        self.open_versions = self.open_versions | wanted if nothing_leaves else wanted

    async def do_roll(self, number: int) -> None:
        """Onwards or back: this version alone is wanted, and a client comes to it."""
        await self.do_add(number)
        for other in self.on_disk - {number}:
            await self.do_remove(other)
        await self.do_load()
        await self.do_open()

    async def do_unload(self, number: int) -> None:
        if number in await versions(self.stub):
            self.doomed += [walker for walker in self.walkers if walker.version == number]
            self.walkers = [walker for walker in self.walkers if walker.version != number]
            await self.stub.UnloadModel(model_pb2.UnloadModelRequest(name="lm", version=number, timeout=Duration()))
            self.open_versions.discard(number)

    async def do_open(self) -> None:
        if not self.open_versions:
            assert (await failure_of(Walker(self.stub).open())).code is grpc.StatusCode.NOT_FOUND
            return
        walker = await Walker(self.stub).open()
        self.walkers.append(walker)
        assert walker.version == max(self.open_versions)

    async def do_close(self, number: int) -> None:
        if self.walkers:
            await self.walkers.pop(number % len(self.walkers)).close()

    async def check(self) -> None:
        """No session has been hurt but by the unloading of its own version."""
        loaded = await versions(self.stub)
        assert {version for version, state in loaded.items() if state == "ready"} == self.open_versions
        for walker in self.walkers:
            await walker.advance()
            assert walker.failure is None, (walker.version, walker.failure)
            assert walker.version in loaded

    async def end(self) -> None:
        for walker in self.walkers:
            await walker.close()
            assert walker.failure is None
        for walker in self.doomed:
            await walker.stop()
            assert walker.failure is not None
            assert walker.failure.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE)


async def start(root: Path, **fields: Any) -> Server:
    """A server of the folder, that lets sessions on old versions go on."""
    fixed = {"models": root, "port": 0, "metrics_port": 0, "num_threads": 1, "num_slots": 4, "max_batch": 2}
    return await start_server(
        Settings(**{**fixed, "store": "none", "trial_seconds": 0, "drain_timeout": 5.0, **fields})
    )


@settings(max_examples=20)
@given(steps=st.lists(actions, max_size=12))
def test_no_session_is_hurt(steps: list[tuple[Any, ...]]) -> None:
    """Whatever comes and goes, each session is answered as PyTorch would, until its own version is unloaded."""
    asyncio.run(play(steps))


async def play(steps: list[tuple[Any, ...]]) -> None:
    """Plays the actions, with a client at work from the beginning."""
    async with AsyncExitStack() as stack:
        shelf = Shelf(Path(stack.enter_context(TemporaryDirectory())))
        shelf.add(1)
        server = await stack.enter_async_context(await start(shelf.root))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
        world = World(shelf, sequence_service_pb2_grpc.SequenceServiceStub(channel))
        await world.do_open()
        for name, *arguments in steps:
            await getattr(world, f"do_{name}")(*arguments)
            await world.check()
        await world.end()
