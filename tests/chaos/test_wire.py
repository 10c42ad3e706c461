"""A wire passes what both sides say until it is cut, and can be used again after that."""

import asyncio

from chaos.wire import Wire


async def test_a_wire_can_be_cut_and_used_again() -> None:
    """Bytes go there and back; a cut ends the connection on both sides; a new connection works."""
    far_ends: asyncio.Queue[bytes] = asyncio.Queue()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        far_ends.put_nowait(b"")
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        wire = Wire(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await wire.start()
        host, port = wire.address.split(":")
        for _ in range(2):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            wire.cut()
            assert await reader.read() == b""
            assert await far_ends.get() == b""
            writer.close()
        await wire.stop()
