"""Each part of the benchmark measures what it says, and the report judges it rightly."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from bench.bare import PAUSE_SECONDS, Bare, PacedBare
from bench.echo import EchoServer
from bench.engine import InProcess
from bench.measurement import Measurement
from bench.model import write_model
from bench.report import make_report
from bench.rows import CEILINGS, ROWS, TARGETS
from bench.server import Server
from bench.streams import ConveyorStreams, EchoStreams

from conveyor.graph.model_file import read_model

SECONDS = 0.05


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models"))


def test_the_model_is_servable(model: Path) -> None:
    """The measured model carries its signature and vocabulary, and two states of 512 numbers."""
    file = read_model(model)

    assert file.signature.state_bytes == 2 * 512 * 4
    assert file.vocabulary is not None
    assert len(file.vocabulary) == 256


async def test_bare_runs_are_counted_by_their_batch(model: Path) -> None:
    """A run of a batch is as many steps as the batch has sequences."""
    measured = await Bare(model).measure(8, SECONDS)

    assert measured.rate == pytest.approx(8 / measured.p50, rel=0.9)


async def test_paced_runs_leave_pauses_that_they_do_not_count(model: Path) -> None:
    """Between two runs is a pause, and the time of a run is without it."""
    measured = await PacedBare(model).measure(1, SECONDS)

    assert 1 / measured.rate > measured.p50 + 0.8 * PAUSE_SECONDS


async def test_the_engine_steps_every_session(model: Path) -> None:
    """The measured engine really advances its sessions, and measures again after that."""
    part = InProcess(model)
    await part.start()

    measured = [await part.measure(4, SECONDS) for _ in range(2)]

    assert all(each.rate > 0 for each in measured)
    assert all(session.position > 0 for session in part.engine.list(9))
    await part.engine.stop()


async def test_the_echo_answers_every_stream() -> None:
    """The echo service and its client talk over several streams, one message in flight on each."""
    server = EchoServer()
    client = EchoStreams(await server.start())
    await client.start()

    measured = await client.measure(3, SECONDS)

    assert 0 < measured.p50 <= measured.p99
    await client.stop()
    await server.stop()


async def test_the_least_server_steps_as_the_real_one_does(model: Path) -> None:
    """Both answer the same steps of the same sessions with the same best tokens, so that their rates compare."""
    answers = []
    for start in (Server.conveyor, Server.least):
        with start(model) as server:
            client = KeepingStreams(server.address)
            await client.start()
            await client.measure(3, SECONDS)
            await client.stop()
        answers.append([client.tokens[session][:5] for session in sorted(client.tokens)])

    assert answers[0] == answers[1]
    assert [len(tokens) for tokens in answers[0]] == [5, 5, 5]


class KeepingStreams(ConveyorStreams):
    """Keeps what it is answered."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.tokens: dict[str, list[int]] = defaultdict(list)

    def check(self, response: Any) -> None:
        super().check(response)
        result = response.results[0]
        self.tokens[result.session_id] += result.top_tokens.tokens


def test_the_report_judges_medians_of_ratios() -> None:
    """One bad round among three does not miss a target; a row is shown for each measurement and each ratio."""
    even = {row: Measurement(rate=1000.0, p50=0.001, p99=0.002) for row in ROWS}
    bad = {
        row: Measurement(rate=1.0 if row.part in {"engine", "sdk", "streams", "least"} else 1000.0, p50=1.0, p99=1.0)
        for row in ROWS
    }

    report = make_report([even, bad, even], {"in the arena": 5000.0})

    assert report.count("| met |") == len(TARGETS)
    assert all(row.title in report for row in ROWS)
    assert make_report([even, bad, bad], {}).count("**missed**") == len(TARGETS) - 1


def test_a_ceiling_adds_up_what_echo_and_model_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """On two cores, an echo that takes 1 ms of both and a step that takes 1 ms of one leave 1.5 ms for each step."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    measured = {row: Measurement(rate=1000.0, p50=0.001, p99=0.002) for row in ROWS}

    assert [ceiling.rate(measured) for ceiling in CEILINGS] == [pytest.approx(1000 / 1.5)] * 2
