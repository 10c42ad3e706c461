"""A real server as a process of its own, and a proxy before it whose connections can be cut."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import onnx

from tests.models import make_feature_model, make_model

SYMBOLS = "?abcdefghijklmnopqrs"  # entry 0 stands for every other symbol


@dataclass
class ServerProcess:
    """`conveyor serve`, running."""

    process: subprocess.Popen[str]
    address: str
    metrics: str


def write_models(folder: Path) -> Path:
    """A language model `letters` and a tagger of features `frames`, as a repository."""
    letters, _ = make_model(vocabulary_size=len(SYMBOLS))
    letters.metadata_props.add(key="conveyor.vocabulary", value=json.dumps(list(SYMBOLS)))
    frames, _ = make_feature_model()
    for name, proto in (("letters", letters), ("frames", frames)):
        path = folder / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        onnx.save(proto, path)
    return folder


@contextmanager
def serving(models: Path, *flags: str) -> Iterator[ServerProcess]:
    """Serves the models until the block ends."""
    command = [str(Path(sys.executable).with_name("conveyor")), "serve", str(models)]
    ports = ["--port", "0", "--metrics-port", "0", "--log-level", "error", "--num-threads", "1"]
    with (
        TemporaryDirectory() as state,
        subprocess.Popen(
            [*command, *ports, "--state-dir", state, *flags], stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(2)]
        try:
            yield ServerProcess(process, lines[0].split()[-1], lines[1].split("//")[-1].removesuffix("/metrics"))
        finally:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # one that stands still would not hear of it


class Proxy:
    """Passes bytes between clients and `address`. Answers can be swallowed, and connections cut."""

    def __init__(self, address: str) -> None:
        self.redirect(address)
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self.is_mute = False  # what the server says is lost
        self.is_deaf = False  # what clients say is lost

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def redirect(self, address: str) -> None:
        """Takes new connections to another server."""
        host, _, port = address.rpartition(":")
        self._target = (host, int(port))

    def cut(self) -> None:
        """Breaks every connection, without a goodbye."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there_writer}
        for task in (self._pump(reader, there_writer, "is_deaf"), self._pump(there_reader, writer, "is_mute")):
            pump = asyncio.ensure_future(task)
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silencer: str) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if not getattr(self, silencer):
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()
