"""Conveyor in half a minute: many sessions at once, text generated, answers checked, metrics, a kill that they survive.

`make demo` runs it. The exit status is 1 if anything that it checks is wrong.
"""

import argparse
import asyncio
import lzma
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from math import isnan, log
from pathlib import Path
from random import Random
from time import perf_counter

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from conveyor.cli.metrics_page import Change, Page, read_page
from conveyor.client import Client, Durability, Session, connect

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "data" / "shakespeare.txt.xz"

NUM_READERS = 24
PASSAGE_LENGTH = 1200
PIECE_LENGTH = 100
CHECKED_LENGTH = 1000
TOLERANCE = 1e-4
PROMPTS = ("ROMEO.\n", "LADY MACBETH.\n", "FALSTAFF.\n")
NUM_GENERATED = 300
PANEL_LINES = 22
READING_SECONDS = 0.015  # a token; the server is faster than a reader
NUM_SURVIVORS = 12
RARE = Durability("async", every_steps=400)  # so that a kill finds steps that are in no checkpoint

console = Console(highlight=False)
failures: list[str] = []


def main() -> int:
    """Runs the demo."""
    parser = argparse.ArgumentParser(description="Shows Conveyor at work.")
    parser.add_argument("models", nargs="?", type=Path, default=ROOT / "models", help="what to serve")
    models = parser.parse_args().models
    with running_server(models) as server:
        asyncio.run(show(server))
    console.print("\n[bold red]Failed: " + ", ".join(failures) if failures else "\n[bold green]All checks passed.")
    return 1 if failures else 0


class Server:
    """`conveyor serve` as its own process, with what outlives it in a folder."""

    def __init__(self, models: Path, folder: Path) -> None:
        self._models = models
        self._folder = folder
        self.address = self.metrics = "127.0.0.1:0"

    def start(self) -> None:
        """Starts it where it was before, or on free ports, and waits for it to say where it listens."""
        command = [str(Path(sys.executable).with_name("conveyor")), "serve", str(self._models)]
        command += ["--port", self.address.split(":")[-1], "--metrics-port", self.metrics.split(":")[-1]]
        log = self._folder / "log"
        with log.open("w") as errors:
            self._process = subprocess.Popen(  # noqa: S603
                [*command, "--state-dir", str(self._folder)], stdout=subprocess.PIPE, stderr=errors, text=True
            )
        lines = [line.strip() for line in islice(self._process.stdout or (), 2)]
        if len(lines) < 2:
            sys.exit(f"the server did not start: {log.read_text().strip()}")
        self.address, self.metrics = lines[0].split()[-1], lines[1].split("//")[1].removesuffix("/metrics")

    def stop(self) -> int:
        """Asks it to end, as Kubernetes would, and returns its exit status."""
        self._process.terminate()
        return self._process.wait(timeout=60)

    def kill(self) -> None:
        """Ends it without a chance to put anything in order."""
        self._process.kill()
        self._process.wait()


async def show(server: Server) -> None:
    """Everything between the server's start and its end."""
    before = await asyncio.to_thread(read_page, server.metrics)
    plays = lzma.decompress(CORPUS.read_bytes()).decode()
    async with connect(server.address) as client:
        model = (await client.models())[0]
        console.print(f"   {model.name} keeps {model.state_bytes:,} bytes of state for each session")
        await stream_text(client, plays)
        await check_answers(client, plays)
        await generate_together(client)
        await show_metrics(server.metrics, before)
        await outlive_a_kill(client, server, plays)


@contextmanager
def running_server(models: Path) -> Iterator[Server]:
    """Starts a server, ends it, and checks how it went."""
    heading("A server, on one of this machine's free ports")
    console.print(f"   conveyor serve {models.name}")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(models, Path(folder))
        try:
            server.start()
            console.print(f"   listening on {server.address}\n   metrics on http://{server.metrics}/metrics")
            yield server
            end(server)
        finally:
            server.kill()


def end(server: Server) -> None:
    """Stops the server in order."""
    heading("A clean end")
    began = perf_counter()
    code = server.stop()
    check("SIGTERM: the server finished its work and left", f"exit {code}, {perf_counter() - began:.1f} s", code == 0)


async def stream_text(client: Client, plays: str) -> None:
    """Reads passages in many sessions at once."""
    heading(f"{NUM_READERS} sessions read different pages of the plays at the same time")
    random = Random(1)  # noqa: S311 - a demo, not a secret
    starts = [random.randrange(len(plays) - PASSAGE_LENGTH) for _ in range(NUM_READERS)]
    scores: list[float] = []
    began = perf_counter()
    with Live(console=console, transient=True) as live:

        async def read(text: str) -> None:
            async with client.open() as session:
                for start in range(0, PASSAGE_LENGTH, PIECE_LENGTH):
                    scores.extend(await session.score(text[start : start + PIECE_LENGTH]))
                    live.update(f"   {len(scores):,} characters")

        await asyncio.gather(*(read(plays[start : start + PASSAGE_LENGTH]) for start in starts))
    rate = len(scores) / (perf_counter() - began)
    predicted = [score for score in scores if not isnan(score)]  # nothing comes before the first of a session
    bits = -sum(predicted) / len(predicted) / log(2)
    console.print(f"   {len(scores):,} characters, {rate:,.0f} a second; the model needs {bits:.2f} bits for each")


async def check_answers(client: Client, plays: str) -> None:
    """Compares a session that is streamed in odd chunks among others with one unbroken run."""
    heading("A session's answers are its own, however it is cut and whoever runs beside it")
    text = plays[50_000 : 50_000 + CHECKED_LENGTH]
    async with client.open() as alone:
        unbroken = await step_in_chunks(alone, text, [CHECKED_LENGTH])
    crowd = [plays[start : start + CHECKED_LENGTH] for start in range(100_000, 300_000, 25_000)]
    async with asyncio.TaskGroup() as group:
        checked = group.create_task(open_and_step(client, text, seed=0))
        for seed, other in enumerate(crowd, start=1):
            group.create_task(open_and_step(client, other, seed))
    difference = max(abs(a - b) for a, b in zip(unbroken, checked.result(), strict=True))
    what = f"{len(unbroken):,} logits in odd chunks among {len(crowd)} others, and in one run"
    check(what, f"largest difference {difference:.1e}", difference <= TOLERANCE)


async def open_and_step(client: Client, text: str, seed: int) -> list[float]:
    """The logits of a text that comes in chunks of 1 to 60 characters."""
    random = Random(seed)  # noqa: S311
    async with client.open() as session:
        return await step_in_chunks(session, text, [random.randint(1, 60) for _ in text])


async def step_in_chunks(session: Session, text: str, lengths: list[int]) -> list[float]:
    """All logits of a text, cut to these lengths."""
    logits: list[float] = []
    while session.position < len(text):
        length = lengths.pop()
        result = await session.step(text[session.position : session.position + length], outputs=["logits"])
        logits.extend(result["logits"].numpy().ravel().tolist())
    return logits


async def generate_together(client: Client) -> None:
    """Three sessions write at once; then one of them again, alone."""
    heading("Three sessions write at once, each token sent as it is drawn")
    texts = dict.fromkeys(PROMPTS, "")
    with Live(panels(texts), console=console, refresh_per_second=15) as live:

        async def write(seed: int, prompt: str) -> None:
            async with client.open(seed=seed) as session:
                async for token in session.generate(prompt, max_tokens=NUM_GENERATED, temperature=0.7):
                    texts[prompt] += token.text
                    live.update(panels(texts))
                    await asyncio.sleep(READING_SECONDS)

        await asyncio.gather(*(write(seed, prompt) for seed, prompt in enumerate(PROMPTS)))
    console.print()
    again = await generate_alone(client, PROMPTS[0], seed=0)
    check("Once more with the same seed", "the same text", again == texts[PROMPTS[0]], "another text")


async def generate_alone(client: Client, prompt: str, seed: int) -> str:
    """A text, without looking at it."""
    async with client.open(seed=seed) as session:
        return "".join(
            [token.text async for token in session.generate(prompt, max_tokens=NUM_GENERATED, temperature=0.7)]
        )


def panels(texts: dict[str, str]) -> Table:
    """The texts side by side."""
    table = Table.grid(*texts, expand=True)
    lines = (Text(prompt, style="bold") + Text(text) for prompt, text in texts.items())
    table.add_row(*(Panel(line, height=PANEL_LINES) for line in lines))
    return table


async def show_metrics(metrics: str, before: Page) -> None:
    """What Prometheus would see."""
    heading(f"What Prometheus scrapes from http://{metrics}/metrics")
    after = await asyncio.to_thread(read_page, metrics)
    change = Change(before, after)
    opened, steps = after.total("conveyor_sessions_opened_total"), after.total("conveyor_steps_total")
    console.print(f"   sessions opened       {opened:>10,.0f}   still open {after.total('conveyor_sessions'):,.0f}")
    console.print(f"   steps                 {steps:>10,.0f}   {change.rate('conveyor_steps_total'):,.0f} a second")
    console.print(f"   tokens generated      {after.total('conveyor_generated_tokens_total'):>10,.0f}")
    console.print(f"   sessions in a run     {change.mean('conveyor_batch_sessions') or 0:>10.1f}   on average")
    for name, title in (("run", "a run, median"), ("inter_token", "between tokens, median")):
        value = change.quantile(0.5, f"conveyor_{name}_seconds") or 0.0
        console.print(f"   {title:22}{value * 1000:>9.2f} ms")
    expected = NUM_READERS * (PASSAGE_LENGTH - 1)
    check("Every step was counted", f"{steps:,.0f}", steps >= expected, f"{steps:,.0f} of {expected:,}")


async def outlive_a_kill(client: Client, server: Server, plays: str) -> None:
    """Kills the server in the middle of sessions, and compares what comes of them with what would have."""
    heading("kill -9 in the middle, and the sessions go on where they were")
    texts = [plays[start : start + CHECKED_LENGTH] for start in range(400_000, 400_000 + 5000 * NUM_SURVIVORS, 5000)]
    expected = await asyncio.gather(*(open_and_step(client, text, seed) for seed, text in enumerate(texts)))
    half_way = asyncio.Barrier(NUM_SURVIVORS + 2)
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read_across(client, text, half_way)) for text in texts]
        writer = group.create_task(write_across(client, PROMPTS[0], half_way))
        await half_way.wait()
        await asyncio.to_thread(kill_and_start, server)
        await half_way.wait()
    num_again = sum(num_replayed for _, num_replayed in (reader.result() for reader in readers))
    num_resumed = (await asyncio.to_thread(read_page, server.metrics)).total("conveyor_resumes_total")
    console.print(f"   {num_resumed:.0f} sessions came from its store; {num_again:,} steps were sent again, unasked")
    pairs = [
        pair
        for want, reader in zip(expected, readers, strict=True)
        for pair in zip(want, reader.result()[0], strict=True)
    ]
    difference = max(abs(a - b) for a, b in pairs)
    what = f"{len(pairs):,} logits of {NUM_SURVIVORS} sessions, as without a kill"
    check(what, f"largest difference {difference:.1e}", difference <= TOLERANCE)
    unbroken = await generate_alone(client, PROMPTS[0], seed=0)
    check(
        "A text begun before the kill and ended after it", "the same text", writer.result() == unbroken, "another text"
    )


def kill_and_start(server: Server) -> None:
    """Ends the server at once, and starts another in its place."""
    began = perf_counter()
    server.kill()
    server.start()
    console.print(f"   conveyor serve, on the same port: ready {perf_counter() - began:.1f} s after the kill")


async def read_across(client: Client, text: str, half_way: asyncio.Barrier) -> tuple[list[float], int]:
    """All logits of a text, and the number of steps that were sent again; at the middle others have their turn."""
    async with client.open(durability=RARE) as session:
        logits = await step_in_chunks(session, text[: len(text) // 2], [PIECE_LENGTH] * len(text))
        await half_way.wait()
        await half_way.wait()
        logits += await step_in_chunks(session, text, [PIECE_LENGTH] * len(text))
        return logits, session.replayed_steps


async def write_across(client: Client, prompt: str, half_way: asyncio.Barrier) -> str:
    """A text as `generate_alone` writes it, stored with every token; at the middle others have their turn."""
    halves = []
    async with client.open(seed=0, durability="sync") as session:
        for start in (prompt, ""):
            tokens = session.generate(start, max_tokens=NUM_GENERATED // 2, temperature=0.7)
            halves.append("".join([token.text async for token in tokens]))
            if start:
                await half_way.wait()
                await half_way.wait()
    return "".join(halves)


def heading(title: str) -> None:
    """Begins a part."""
    console.print(f"\n[bold cyan]{title}[/]")


def check(what: str, result: str, is_right: bool, otherwise: str = "") -> None:
    """Says how a check went, and remembers failures."""
    mark = "[green]ok[/]" if is_right else "[red]FAILED[/]"
    console.print(f"   {what}: {result if is_right else otherwise or result}  {mark}")
    if not is_right:
        failures.append(what)


if __name__ == "__main__":
    sys.exit(main())
