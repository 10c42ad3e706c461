"""Every store against a plain model of one, in any order of what two owners may do."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from conveyor.store.memory import MemoryStore
from conveyor.store.sqlite import SqliteStore
from conveyor.store.store import Record, Save, Saved, Store
from conveyor.store.valkey import ValkeyStore
from tests.store.conftest import KINDS
from tests.store.saves import read_pages
from tests.store.servers import ValkeyProcess

NAMES = ("a", "b", "c", "d")
names = st.sampled_from(NAMES)
batches = st.lists(names, min_size=1, max_size=4, unique=True)
owners = st.integers(0, 1)


@dataclass
class Expected:
    """A record of the model; `head` None is a closed one. Checkpoints are with the epochs that stored them."""

    epoch: int
    head: bytes | None
    checkpoints: dict[int, tuple[int, bytes]]

    def record(self, name: str) -> Record:
        return Record(name, self.epoch, self.head, {at: state for at, (_, state) in self.checkpoints.items()})


class StoreMachine(RuleBasedStateMachine):
    """Two owners, each with the epochs that it was given; it does not know when it has lost a session."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = TemporaryDirectory()
        self.store: Store = make(Path(self.folder.name))
        self.model: dict[str, Expected] = {}
        self.held: list[dict[str, int]] = [{}, {}]
        self.num_saves = 0

    def do(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def make_save(
        self, owner: int, name: str, position: int, num_back: int, *, has_head: bool, seconds: float = 600.0
    ) -> Save:
        self.num_saves += 1
        state, head = b"state %d" % self.num_saves, b"head %d" % self.num_saves
        epoch, oldest = self.held[owner].get(name, 1), max(0, position - num_back)
        latest = max(oldest, position - num_back // 2)
        return Save(name, epoch, position, state, oldest, seconds, head if has_head else None, latest)

    @rule(owner=owners, batch=st.lists(names, min_size=1, max_size=4), position=st.integers(0, 9))
    def create(self, owner: int, batch: list[str], position: int) -> None:
        saves = [self.make_save(owner, name, position, 0, has_head=True) for name in batch]
        epochs = self.do(self.store.create(saves))
        for save, epoch in zip(saves, epochs, strict=True):
            before = self.model.get(save.session_id)
            if before and before.head is not None:
                assert epoch == 0
                continue
            assert epoch == (before.epoch + 1 if before else 1)
            states = {position: (epoch, save.checkpoint)}
            self.model[save.session_id] = Expected(epoch, save.head, states)
            self.held[owner][save.session_id] = epoch

    @rule(owner=owners, batch=batches, position=st.integers(0, 9), num_back=st.integers(0, 9), has_head=st.booleans())
    def save(self, owner: int, batch: list[str], position: int, num_back: int, has_head: bool) -> None:
        saves = [self.make_save(owner, name, position, num_back, has_head=has_head) for name in batch]
        outcomes = self.do(self.store.save(saves, must_replicate=True))
        assert outcomes == [self.expect_save(save) for save in saves]

    @rule(owner=owners, batch=batches)
    def save_and_expire(self, owner: int, batch: list[str]) -> None:
        saves = [self.make_save(owner, name, 9, 0, has_head=False, seconds=0.001) for name in batch]
        outcomes = self.do(self.store.save(saves, must_replicate=False))
        assert outcomes == [self.expect_save(save) for save in saves]
        for save, outcome in zip(saves, outcomes, strict=True):
            if outcome is Saved.DONE:
                del self.model[save.session_id]
        time.sleep(0.003)

    def expect_save(self, save: Save) -> Saved:
        before = self.model.get(save.session_id)
        if before and (before.epoch > save.epoch or (before.head is None and before.epoch == save.epoch)):
            return Saved.FENCED
        if not before or before.head is None:
            if save.head is None:
                return Saved.GONE
            before = self.model[save.session_id] = Expected(save.epoch, save.head, {})
        before.epoch = save.epoch
        for position, (epoch, _) in list(before.checkpoints.items()):
            is_of_another_line = epoch < save.epoch and position >= save.position
            is_between = save.oldest < position < save.latest
            if position < save.oldest or is_between or is_of_another_line:
                del before.checkpoints[position]
        before.checkpoints[save.position] = save.epoch, save.checkpoint
        return Saved.DONE

    @rule(owner=owners, name=names, epoch=st.one_of(st.none(), st.integers(1, 4)))
    def acquire(self, owner: int, name: str, epoch: int | None) -> None:
        record = self.do(self.store.acquire(name, epoch))
        before = self.model.get(name)
        if not before or before.head is None or epoch not in (None, before.epoch):
            assert record is None
            return
        before.epoch += 1
        self.held[owner][name] = before.epoch
        assert record == before.record(name)

    @rule(owner=owners, batch=batches)
    def close(self, owner: int, batch: list[str]) -> None:
        closings = [(name, self.held[owner].get(name, 1)) for name in batch]
        are_closed = self.do(self.store.close(closings))
        assert are_closed == [name not in self.model or self.model[name].epoch <= epoch for name, epoch in closings]
        for (name, epoch), is_closed in zip(closings, are_closed, strict=True):
            if is_closed:
                self.model[name] = Expected(epoch, None, {})

    @rule(count=st.integers(1, 5))
    def list_all(self, count: int) -> None:
        listed = self.do(read_pages(self.store, count))
        records = [expected.record(name) for name, expected in self.model.items() if expected.head is not None]
        assert listed == {
            record.session_id: Record(
                record.session_id, record.epoch, record.head, dict.fromkeys(record.checkpoints, b"")
            )
            for record in records
        }

    @invariant()
    def reads_agree(self) -> None:
        for name in NAMES:
            expected = self.model.get(name)
            is_open = expected and expected.head is not None
            assert self.do(self.store.read(name)) == (expected.record(name) if expected and is_open else None)

    def teardown(self) -> None:
        self.do(self.store.stop())
        self.runner.close()
        self.folder.cleanup()


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_does_what_the_model_does(kind: str, request: pytest.FixtureRequest) -> None:
    """Create, save, acquire, close, expire and list: in any order by two owners each answers as the model."""

    def make(folder: Path) -> Store:
        if kind == "memory":
            return MemoryStore()
        if kind == "sqlite":
            return SqliteStore(folder / "sessions.db")
        server: ValkeyProcess = request.getfixturevalue("shared_valkey")
        server.command("FLUSHALL")
        return ValkeyStore(server.url)

    run_state_machine_as_test(lambda: StoreMachine(make), settings=settings(max_examples=40, stateful_step_count=25))
