"""The face without `await`."""

import pytest

from conveyor.client import InvalidArgument, SyncClient, connect_sync
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
