"""Conveyor in half a minute: a server, many sessions at once, text generated, answers checked, metrics, shutdown.

`make demo` runs it. The exit status is 1 if anything that it checks is wrong.
"""

import argparse
import asyncio
import lzma
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from math import isnan, log
from pathlib import Path
from random import Random
from time import perf_counter
from typing import IO

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from conveyor.cli.metrics_page import Change, Page, read_page
from conveyor.client import Client, Session, connect

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

console = Console(highlight=False)
failures: list[str] = []


def main() -> int:
    """Runs the demo."""
    parser = argparse.ArgumentParser(description="Shows Conveyor at work.")
    parser.add_argument("models", nargs="?", type=Path, default=ROOT / "models", help="what to serve")
    models = parser.parse_args().models
    with running_server(models) as (address, metrics):
        asyncio.run(show(address, metrics))
    console.print("\n[bold red]Failed: " + ", ".join(failures) if failures else "\n[bold green]All checks passed.")
    return 1 if failures else 0


async def show(address: str, metrics: str) -> None:
    """Everything between the server's start and its end."""
    before = await asyncio.to_thread(read_page, metrics)
    plays = lzma.decompress(CORPUS.read_bytes()).decode()
    async with connect(address) as client:
        model = (await client.models())[0]
        console.print(f"   {model.name} keeps {model.state_bytes:,} bytes of state for each session")
        await stream_text(client, plays)
        await check_answers(client, plays)
        await generate_together(client)
    await show_metrics(metrics, before)


@contextmanager
def running_server(models: Path) -> Iterator[tuple[str, str]]:
    """Starts a server as its own process; yields where it and its metrics are; ends it and checks how it went."""
    heading("A server, on one of this machine's free ports")
    command = [
        str(Path(sys.executable).with_name("conveyor")),
        "serve",
        str(models),
        "--port",
        "0",
        "--metrics-port",
        "0",
    ]
    console.print(f"   conveyor serve {models.name}")
    with tempfile.TemporaryFile("w+") as logs:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=logs, text=True)  # noqa: S603
        try:
            yield read_addresses(server.stdout or (), logs)
            stop(server)
        finally:
            server.kill()
            server.wait()


def read_addresses(output: Iterable[str], logs: IO[str]) -> tuple[str, str]:
    """Waits for the server to say where it listens."""
    lines = [line.strip() for line in islice(output, 2)]
    if len(lines) < 2:
        logs.seek(0)
        sys.exit(f"the server did not start: {logs.read().strip()}")
    console.print(*(f"   {line}" for line in lines), sep="\n")
    return lines[0].split()[-1], lines[1].split("//")[1].removesuffix("/metrics")


def stop(server: "subprocess.Popen[str]") -> None:
    """Asks the server to end, as Kubernetes would."""
    heading("A clean end")
    began = perf_counter()
    server.terminate()
    code = server.wait(timeout=60)
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
