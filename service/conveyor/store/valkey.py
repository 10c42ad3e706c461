"""Keeps checkpoints in a Valkey server, for the servers of several machines."""

from collections.abc import Sequence
from typing import Any

from conveyor.store import scripts
from conveyor.store.scripts import Command
from conveyor.store.store import CLOSED_SECONDS, LISTED_BYTES, Record, Save, Saved, StoreError
from conveyor.store.valkey_server import ValkeyServer

LAST_CURSOR = (1 << 64) - 1  # that a server can give


class ValkeyStore:
    """A `Store` of one Valkey server: a hash for each session, treated by scripts.

    The URL is valkey://USER:PASSWORD@HOST:PORT/DB; only the host is needed. With valkeys:// it is TLS, and the server's
    certificate must be of an authority that this machine trusts, or that is in the file of SSL_CERT_FILE. What must
    replicate, and every `acquire`, fails if fewer than `num_replicas` have it in time. An operation may take `timeout`
    seconds.

    What is kept when the server restarts is its own configuration's affair (`appendonly`), and so is that it evicts
    nothing when it is full (`maxmemory-policy noeviction`).

    Raises:
        ValueError: it is no such URL. The message does not repeat it: there may be a password in it.
    """

    def __init__(self, url: str, num_replicas: int = 0, timeout: float = 2.0) -> None:
        self._server = ValkeyServer(url, timeout)
        self._num_replicas = num_replicas
        self._timeout = timeout

    async def create(self, saves: Sequence[Save], *, must_replicate: bool = False) -> list[int]:
        """See `Store`."""
        arguments = [(save.session_id, (*_checkpoint(save), save.head or b"")) for save in saves]
        return [*await self._run(scripts.calls(scripts.CREATE, arguments), must_replicate=must_replicate)]

    async def save(self, saves: Sequence[Save], *, must_replicate: bool) -> list[Saved]:
        """See `Store`."""
        commands = scripts.calls(scripts.SAVE, [(save.session_id, _saving(save)) for save in saves])
        return [Saved(reply.decode()) for reply in await self._run(commands, must_replicate=must_replicate)]

    async def acquire(self, session_id: str, epoch: int | None = None, seconds: float = 0.0) -> Record | None:
        """See `Store`."""
        condition = () if epoch is None else (b"%d" % epoch,)
        commands = scripts.calls(scripts.ACQUIRE, [(session_id, (b"%d" % (seconds * 1000), *condition))])
        (reply,) = await self._run(commands, must_replicate=True)  # or a failover brought the epoch before it back
        return _record(session_id, reply or [])

    async def read(self, session_id: str) -> Record | None:
        """See `Store`."""
        (reply,) = await self._server.run([(b"HGETALL", scripts.PREFIX + session_id.encode())])
        return _record(session_id, reply)

    async def close(self, closings: Sequence[tuple[str, int]]) -> list[bool]:
        """See `Store`."""
        stay = b"%d" % (CLOSED_SECONDS * 1000)
        arguments = [(name, (b"%d" % epoch, stay)) for name, epoch in closings]
        return [bool(reply) for reply in await self._server.run(scripts.calls(scripts.CLOSE, arguments))]

    async def list(self, count: int, cursor: str = "") -> tuple[list[Record], str]:
        """See `Store`. A cursor is the server's, and a page may be empty before the last."""
        if cursor and not _is_cursor(cursor):
            raise ValueError("a cursor of this store is a number of 64 bits")
        scan = (b"SCAN", b"%d" % int(cursor or 0), b"MATCH", scripts.PREFIX + b"*", b"COUNT", b"%d" % count)
        ((following, keys),) = await self._server.run([scan])
        ids = [key.removeprefix(scripts.PREFIX).decode() for key in keys]
        arguments = [(session_id, (b"%d" % LISTED_BYTES,)) for session_id in ids]
        replies = await self._server.run(scripts.calls(scripts.SUMMARY, arguments))
        records = [_summary(session_id, *reply) for session_id, reply in zip(ids, replies, strict=True) if reply]
        return records, following.decode() if following != b"0" else ""

    async def stop(self) -> None:
        """See `Store`."""
        await self._server.close()

    async def _run(self, commands: Sequence[Command], *, must_replicate: bool) -> Sequence[Any]:
        """Replies of commands, once the replicas have what they wrote, if that is asked for and there are any."""
        num_replicas = self._num_replicas if must_replicate and commands else 0
        if not num_replicas:
            return await self._server.run(commands)
        # In half of the time, so that its answer comes before ours is due.
        *replies, num_reached = await self._server.run(
            [*commands, (b"WAIT", b"%d" % num_replicas, b"%d" % (self._timeout * 500))]
        )
        if num_reached < num_replicas:
            raise StoreError(f"{self._server.name}: {num_reached} of {num_replicas} replicas answered")
        return replies


def _checkpoint(save: Save) -> Command:
    return b"%d" % save.position, save.checkpoint, b"%d" % max(1, save.seconds * 1000)


def _saving(save: Save) -> Command:
    head = () if save.head is None else (save.head,)
    return *_checkpoint(save), b"%d" % save.epoch, b"%d" % save.oldest, b"%d" % save.latest, *head


def _record(session_id: str, reply: Sequence[bytes]) -> Record | None:
    """The record in a reply of HGETALL: names and values in turn."""
    fields = dict(zip(reply[::2], reply[1::2], strict=True))
    if b"head" not in fields:
        return None
    epoch, head = int(fields.pop(b"epoch")), fields.pop(b"head")
    return Record(session_id, epoch, head, {_position(name): checkpoint for name, checkpoint in fields.items()})


def _summary(session_id: str, epoch: bytes, head: bytes, names: Sequence[bytes]) -> Record:
    positions = [_position(name) for name in names if b":" in name]
    return Record(session_id, int(epoch), head, dict.fromkeys(positions, b""))


def _position(name: bytes) -> int:
    return int(name.split(b":")[0])


def _is_cursor(text: str) -> bool:
    # The length first: Python refuses to read numbers of thousands of digits.
    return text.isdecimal() and len(text) <= len(str(LAST_CURSOR)) and int(text) <= LAST_CURSOR
