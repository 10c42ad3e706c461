"""The command `python -m conveyor_export.captioner`, which `make caption` runs."""

import argparse
import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from conveyor.client import connect
from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor_export.captioner.model import Captioner
from conveyor_export.captioner.picture import draw_captions
from conveyor_export.captioner.reading import Caption, read_images
from conveyor_export.captioner.training import NUM_EPOCHS, train
from conveyor_export.digits import NAMES, SYMBOLS, Digits, read_digits
from conveyor_export.export import export_model
from conveyor_export.weights import train_once

MODEL = "captioner"
_ABOUT = "Trains a captioner of handwritten digits, exports it, serves it, and has it spell those that it never saw."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser("python -m conveyor_export.captioner", description=_ABOUT)
    parser.add_argument("--out", type=Path, default=Path("runs/captioner"), help="folder; default %(default)s")
    options = parser.parse_args(arguments)
    learned, held_out = read_digits()
    captioner = _trained(options.out / "captioner.pt", learned)
    report = export_model(captioner, options.out / "models" / MODEL / "1" / "model.onnx", vocabulary=SYMBOLS)
    tqdm.write(str(report))
    captions = asyncio.run(_read(options.out / "models", held_out))
    _tell(held_out, captions)
    _draw(held_out, captions, options.out / "captions.png")
    return 0


def _trained(path: Path, digits: Digits) -> Captioner:
    """The captioner of an earlier run, or a new one."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a model this small only waits for others
    captioner = Captioner()
    train_once(captioner, path, lambda: _train(captioner, digits))
    return captioner


def _train(captioner: Captioner, digits: Digits) -> None:
    with tqdm(desc=f"{len(digits):,} digits, {NUM_EPOCHS} epochs", unit=" updates", disable=None) as bar:

        def show(loss: float) -> None:
            bar.set_postfix_str(f"{loss:.4f} nats a letter", refresh=False)
            bar.update()

        train(captioner, digits, NUM_EPOCHS, show)


async def _read(models: Path, digits: Digits) -> list[Caption]:
    settings = Settings(models=models, port=0, metrics_port=0, store="none")
    async with await start_server(settings) as server, connect(server.address) as client:
        return await read_images(client, MODEL, digits)


def _tell(digits: Digits, captions: list[Caption]) -> None:
    names = [NAMES[label] for label in digits.labels.tolist()]
    wrong = Counter((name, c.name) for name, c in zip(names, captions, strict=True) if name != c.name)
    num_right = len(names) - wrong.total()
    tqdm.write(f"held-out digits spelled right: {num_right} of {len(names)} ({num_right / len(names):.1%})")
    for (name, read), count in wrong.most_common():
        tqdm.write(f"  {name} read as {read}: {count}")


def _draw(digits: Digits, captions: list[Caption], path: Path) -> None:
    """The first of each digit."""
    labels = digits.labels.tolist()
    firsts = [labels.index(label) for label in range(len(NAMES))]
    draw_captions(digits.images[firsts].numpy(), [captions[first] for first in firsts], path)
    tqdm.write(f"{path}: where it looked")
