"""The command `python -m conveyor_export.composer`, which `make compose` runs."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from conveyor.client import Client, connect
from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor_export.composer.chorales import Chorales, read_chorales
from conveyor_export.composer.picture import draw_rolls
from conveyor_export.composer.playing import Array, compose, score
from conveyor_export.composer.training import RECIPES, train
from conveyor_export.export import export_model
from conveyor_export.generative.forms import Generate, Score

NUM_COMPOSED, NUM_QUARTERS = 3, 64
_ABOUT = "Trains VRNN and STORN on Bach's chorales, exports and serves them, and has them score and compose."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser("python -m conveyor_export.composer", description=_ABOUT)
    parser.add_argument("--out", type=Path, default=Path("runs/composer"), help="folder; default %(default)s")
    options = parser.parse_args(arguments)
    try:
        chorales = read_chorales()
    except ImportError as error:
        sys.stderr.write(f"composer: {error}: the chorales come with it (pip install music21)\n")
        return 1
    run(chorales, options.out)
    return 0


def run(chorales: Chorales, folder: Path) -> None:
    """All but reading the chorales."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a model this small only waits for others
    for name, recipe in RECIPES.items():
        model = train(recipe, chorales.learned, folder / f"{name}.pt")
        for served, form in ((name, Generate(model)), (f"{name}_score", Score(model))):
            tqdm.write(str(export_model(form, folder / "models" / served / "1" / "model.onnx")))
    asyncio.run(_use(chorales.held_out, folder))


async def _use(held_out: list[torch.Tensor], folder: Path) -> None:
    settings = Settings(models=folder / "models", port=0, metrics_port=0, store="none")
    rows: dict[str, list[Array]] = {"Bach, held out": [roll[:NUM_QUARTERS].numpy() for roll in held_out[:NUM_COMPOSED]]}
    async with await start_server(settings) as server, connect(server.address) as client:
        for name in RECIPES:
            await _tell(client, name, held_out)
            rows[name.upper()] = await compose(client, name, NUM_COMPOSED, NUM_QUARTERS)
    draw_rolls(rows, folder / "chorales.png")
    tqdm.write(str(folder / "chorales.png"))


async def _tell(client: Client, name: str, held_out: list[torch.Tensor]) -> None:
    bound = await score(client, f"{name}_score", held_out)
    tqdm.write(f"{name}: bound on {len(held_out)} chorales that it never saw: {bound:.3f} nats a quarter")
