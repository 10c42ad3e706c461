"""The command `python -m conveyor_export.painter`, which `make paint` runs."""

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from conveyor.client import connect
from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor_export.digits import Digits, read_digits
from conveyor_export.export import export_model
from conveyor_export.generative.easel import Look, Paint
from conveyor_export.painter.painting import Glimpses, look_at_all, paint_all
from conveyor_export.painter.picture import draw_grid
from conveyor_export.painter.training import CONFIG, NUM_GLIMPSES, PLAN, mean_bound, train

NUM_SEEDS = 12
NUM_LOOKED_AT = 4
_ABOUT = "Trains DRAW on handwritten digits, exports it, serves it, and has it paint them glimpse by glimpse."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser("python -m conveyor_export.painter", description=_ABOUT)
    parser.add_argument("--out", type=Path, default=Path("runs/painter"), help="folder; default %(default)s")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a model this small only waits for others
    learned, held_out = read_digits()
    draw = train(learned, PLAN, options.out / "draw.pt")
    tqdm.write(f"bound on {len(held_out)} digits that it never saw: {mean_bound(draw, held_out):.2f} nats each")
    for name, form in (("paint", Paint(draw)), ("look", Look(draw))):
        tqdm.write(str(export_model(form, options.out / "models" / name / "1" / "model.onnx")))
    looked_at = held_out[:NUM_LOOKED_AT]
    painted, looks = asyncio.run(_use(options.out / "models", looked_at))
    _draw(painted, looked_at, looks, options.out)
    return 0


async def _use(models: Path, digits: Digits) -> tuple[list[list[Glimpses]], list[Glimpses]]:
    settings = Settings(models=models, port=0, metrics_port=0, store="none")
    async with await start_server(settings) as server, connect(server.address) as client:
        return await paint_all(client, NUM_SEEDS), await look_at_all(client, digits)


def _draw(painted: list[list[Glimpses]], digits: Digits, looks: list[Glimpses], folder: Path) -> None:
    draw_grid([np.stack([each.pictures[-1] for each in row]) for row in painted], folder / "painted.png")
    first = [row[0] for row in painted]
    windows = [each.windows for each in first]
    draw_grid([each.pictures for each in first], folder / "strokes.png", windows, CONFIG.write_size)
    rows, windows = [], []
    for image, look in zip(digits.images.numpy(), looks, strict=True):
        rows += [np.stack([image] * NUM_GLIMPSES), look.pictures]
        windows += [look.read_windows, look.windows]
    draw_grid(rows, folder / "looked.png", windows, CONFIG.read_size)
    tqdm.write(f"{folder}: painted.png, strokes.png, looked.png")
