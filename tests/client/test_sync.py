"""The face without `await`."""

from inspect import Parameter, signature
from typing import get_type_hints

import pytest

from conveyor.client import Client, InvalidArgument, Session, SyncClient, Unavailable, connect_sync
from conveyor.client.sync import ForkOptions, GenerateOptions, ImportOptions, OpenOptions, StatelessOptions
from tests.client.serving import ServerProcess


@pytest.fixture
def sync_client(server: ServerProcess):
    with connect_sync(server.address) as client:
        yield client


def test_a_session_works_without_await(sync_client: SyncClient) -> None:
    """Opening, stepping, scoring, looking and closing are plain calls."""
    assert [model.name for model in sync_client.models()] == ["frames", "letters"]
    with sync_client.open("letters", session_id="plain") as session:
        assert session.step("abc", top_k=1).position == 3
        assert len(session.score("def")) == 3
        assert session.refresh().position == session.position == 6
        assert sync_client.session("plain").position == 6
        assert [info.session_id for info in sync_client.sessions()] == ["plain"]

    assert sync_client.sessions() == []


def test_copies_work_without_await(sync_client: SyncClient) -> None:
    """Forks, exports, imports and steps without a session are plain calls."""
    with sync_client.open("letters", durability="sync") as session:
        expected = session.step("abc", outputs=["logits"])["logits"].data
        with session.fork("forked", seed=3) as fork, sync_client.import_session(session.export(), seed=3) as copy:
            assert fork.id == "forked"
            assert fork.step("d").position == copy.step("d").position == 4
        assert [info.session_id for info in sync_client.sessions("letters", stored=True)] == [session.id]
        assert session.replayed_steps == sync_client.fenced_answers == 0

    result, checkpoint = sync_client.step_stateless("a", "letters", seed=1)
    result, checkpoint = sync_client.step_stateless("bc", "letters", checkpoint=checkpoint, outputs=["logits"])
    assert result.position == 3
    assert result["logits"].data == expected[len(expected) // 3 :]


def test_generation_is_a_plain_iterator(sync_client: SyncClient) -> None:
    """Tokens come one by one, and the iterator may be left early."""
    with sync_client.open("letters", seed=1) as session:
        tokens = list(session.generate("abc", max_tokens=8))
        assert [token.finish_reason for token in tokens] == [None] * 7 + ["length"]

        endless = session.generate(max_tokens=4000)
        next(endless)
        endless.close()
        assert session.step("a").position > 11


def test_errors_are_raised_where_they_belong(sync_client: SyncClient) -> None:
    """A refused step raises in the caller's thread, and the session goes on."""
    with sync_client.open("letters") as session:
        with pytest.raises(InvalidArgument):
            session.step([99])
        assert session.step("a").position == 1


def test_both_faces_take_the_same_options() -> None:
    """Each call takes the options of the async face, by name and by type."""
    for options, method in (
        (OpenOptions, Client.open),
        (ImportOptions, Client.import_session),
        (StatelessOptions, Client.step_stateless),
        (GenerateOptions, Session.generate),
        (ForkOptions, Session.fork),
    ):
        hints = get_type_hints(method)
        parameters = signature(method).parameters.values()
        keywords = [parameter.name for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY]

        assert get_type_hints(options) == {name: hints[name] for name in keywords}


def test_a_closed_client_is_unavailable(server: ServerProcess, capfd: pytest.CaptureFixture[str]) -> None:
    """Closing twice does nothing, every call after it is refused, and a generation that was left is quiet."""
    client = connect_sync(server.address)
    session = client.open("letters")
    tokens = session.generate("abc", max_tokens=4000)
    other_tokens = session.generate("abc")
    next(tokens)
    session.close()
    client.close()
    client.close()

    calls = (client.models, lambda: client.open("letters"), lambda: session.step("a"), lambda: next(other_tokens))
    for call in calls:
        with pytest.raises(Unavailable, match="the client is closed"):
            call()
    del tokens
    assert capfd.readouterr().err == ""
