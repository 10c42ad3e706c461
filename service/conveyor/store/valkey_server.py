"""The connections to a Valkey server."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from valkey.asyncio.connection import AbstractConnection, Connection, SSLConnection
from valkey.exceptions import ResponseError, ValkeyError

from conveyor.store.scripts import Command
from conveyor.store.store import StoreError

DEFAULT_PORT = 6379
# Each is used by one operation at a time; more than these wait for each other.
MAX_CONNECTIONS = 16


class _Aborting(AbstractConnection):
    """Ends at once: what waits to be sent is not sent later, and takes no memory till then."""

    async def disconnect(self, nowait: bool = False) -> None:
        if self._writer:
            self._writer.transport.abort()
        await super().disconnect(nowait=True)


class _Plain(_Aborting, Connection):
    pass


class _Encrypted(_Aborting, SSLConnection):
    pass


class ValkeyServer:
    """Runs commands on the server of a URL, and connects anew after trouble. A round trip may take `timeout` seconds.

    Raises:
        ValueError: it is no such URL. The message does not repeat it: there may be a password in it.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = _split(url)
        self.name = f"{parts.hostname}:{parts.port or DEFAULT_PORT}"
        self._timeout = timeout
        self._connect = partial(_Encrypted if parts.scheme == "valkeys" else _Plain, **_connection_arguments(parts))
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)
        self._idle: list[Connection] = []

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Replies of commands, in one round trip.

        Raises:
            StoreError: the server is not there, is late, or refuses one of them.
        """
        if not commands:
            return []
        try:
            async with asyncio.timeout(self._timeout), self._free:
                replies = await self._exchange(commands)
        except TimeoutError:
            raise StoreError(f"{self.name}: no answer within {self._timeout:g} s") from None
        except ValkeyError as error:
            raise StoreError(f"{self.name}: {error}") from error
        if errors := [reply for reply in replies if isinstance(reply, ResponseError)]:
            await self.close()  # it may be that the server is not the primary any more
            raise StoreError(f"{self.name}: {errors[0]}")
        return replies

    async def close(self) -> None:
        """Closes the connections that are not in use."""
        while self._idle:
            await self._idle.pop().disconnect()

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._idle.pop() if self._idle else self._connect()
        try:
            await _prepare(connection)
            await connection.send_packed_command([_pack(command) for command in commands])
            replies = [await _reply(connection) for _ in commands]
        except BaseException:
            await connection.disconnect()
            await self.close()  # what is wrong with one is likely wrong with all
            raise
        self._idle.append(connection)
        return replies


async def _prepare(connection: Connection) -> None:
    await connection.connect()
    if await connection.can_read_destructive():  # the end of it: nothing has been asked
        await connection.disconnect()
        await connection.connect()


def _split(url: str) -> SplitResult:
    wrong = ValueError("must be valkey://USER:PASSWORD@HOST:PORT/DB, or valkeys:// for TLS; only the host is needed")
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("valkey", "valkeys") and parts.hostname and (parts.port is None or parts.port)
    except ValueError:
        raise wrong from None
    database = parts.path.removeprefix("/")
    if not is_whole or parts.query or parts.fragment or not (database or "0").isdecimal():
        raise wrong
    return parts


def _connection_arguments(parts: SplitResult) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "socket_timeout": None,
        "host": parts.hostname,
        "port": parts.port or DEFAULT_PORT,
        "db": int(parts.path.removeprefix("/") or 0),
        "username": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
    }
    if parts.scheme == "valkeys":
        # Left to itself, the library takes any valid certificate, whatever host it is for.
        arguments["ssl_check_hostname"] = True
    return arguments


def _pack(command: Command) -> bytes:
    # With the library's own packing a batch takes the event loop half as long again.
    return b"*%d\r\n" % len(command) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in command])


async def _reply(connection: Connection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error  # the replies behind it have to be read too
