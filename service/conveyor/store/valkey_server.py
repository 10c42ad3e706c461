"""The connections to a Valkey server."""

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from valkey.asyncio.connection import BlockingConnectionPool, Connection, SSLConnection
from valkey.exceptions import ResponseError, ValkeyError

from conveyor.store.scripts import Command
from conveyor.store.store import StoreError

DEFAULT_PORT = 6379
# Each is used by one operation at a time; more than these wait for each other.
MAX_CONNECTIONS = 16


class ValkeyServer:
    """Runs commands on the server of a URL, and connects anew after trouble. A round trip may take `timeout` seconds.

    Raises:
        ValueError: it is no such URL. The message does not repeat it: there may be a password in it.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = _split(url)
        self.name = f"{parts.hostname}:{parts.port or DEFAULT_PORT}"
        self._timeout = timeout
        self._pool = BlockingConnectionPool(MAX_CONNECTIONS, None, socket_timeout=None, **_connection_arguments(parts))

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Replies of commands, in one round trip.

        Raises:
            StoreError: the server is not there, is late, or refuses one of them.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._exchange(commands) if commands else []
        except (ValkeyError, TimeoutError) as error:
            # A connection may be to a server that is not the primary any more.
            await self._pool.disconnect(inuse_connections=False)
            reason = f"no answer within {self._timeout:g} s" if isinstance(error, TimeoutError) else error
            raise StoreError(f"{self.name}: {reason}") from error

    async def close(self) -> None:
        """Closes all connections."""
        await self._pool.disconnect()

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection: Connection = await self._pool.get_connection("EVALSHA")
        try:
            await connection.send_packed_command([_pack(command) for command in commands])
            replies = [await _reply(connection) for _ in commands]
        finally:
            await self._pool.release(connection)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return replies


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
        "host": parts.hostname,
        "port": parts.port or DEFAULT_PORT,
        "db": int(parts.path.removeprefix("/") or 0),
        "username": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
    }
    if parts.scheme == "valkeys":
        # Left to itself, the library takes any valid certificate, whatever host it is for.
        arguments |= {"connection_class": SSLConnection, "ssl_check_hostname": True}
    return arguments


def _pack(command: Command) -> bytes:
    # The library's own packing takes as long again as all the rest of its work for a batch.
    return b"*%d\r\n" % len(command) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in command])


async def _reply(connection: Connection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error  # the replies behind it have to be read too
