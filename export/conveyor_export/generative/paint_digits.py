"""Trains DRAW on handwritten digits, exports and serves it, and has it paint them glimpse by glimpse.

python -m conveyor_export.generative.paint_digits --out runs/digits
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from conveyor.client import Client, StepResult
from conveyor_export.export import export_model
from conveyor_export.generative.digits import NUM_CLASSES, SIDE, Digits, read_digits
from conveyor_export.generative.draw import DRAW, DRAWConfig
from conveyor_export.generative.easel import Look, Paint
from conveyor_export.generative.fitting import Fit, fit
from conveyor_export.generative.pictures import Array, draw_glimpses, draw_grid
from conveyor_export.generative.serving import serve

CONFIG = DRAWConfig(SIDE, SIDE, hidden_size=96, num_classes=NUM_CLASSES)
NUM_GLIMPSES = 12
BATCH_SIZE = 100
NUM_PAINTED = 12  # of each digit
NUM_LOOKED_AT = 6
NUM_DRAWS = 10  # of the latent variables, for the mean of a bound


def train(digits: Digits, plan: Fit) -> DRAW:
    """A DRAW that is told which digit it paints."""
    draw = DRAW(CONFIG)

    def bound() -> Tensor:
        batch = digits.sample(BATCH_SIZE)
        return draw.bound(batch.bits(), batch.labels, _noise(BATCH_SIZE)).mean()

    fit(draw, bound, plan)
    return draw.eval()


@torch.no_grad()
def mean_bound(draw: DRAW, digits: Digits) -> float:
    """In nats an image of 64 bits."""
    bounds = [draw.bound(digits.bits(), digits.labels, _noise(len(digits.images))).mean() for _ in range(NUM_DRAWS)]
    return float(torch.stack(bounds).mean())


async def show(models: Path, held_out: Digits, folder: Path) -> None:
    """Writes three pictures of what sessions of the server paint."""
    async with serve(models) as client:
        painted = await asyncio.gather(*(_paint(client, digit, seed) for digit in _DIGITS for seed in _SEEDS))
        images, labels = held_out.images[:NUM_LOOKED_AT].numpy(), held_out.labels[:NUM_LOOKED_AT].numpy()
        looks = await asyncio.gather(*(_look(client, *each) for each in zip(images, labels, strict=True)))
    rows = [painted[digit * NUM_PAINTED : (digit + 1) * NUM_PAINTED] for digit in _DIGITS]
    draw_grid([[_of(each, "picture")[-1] for each in row] for row in rows], folder / "painted.png")
    strokes = [(_of(row[0], "picture"), _of(row[0], "window")) for row in rows]
    draw_glimpses(strokes, CONFIG.write_size, folder / "strokes.png")
    read = [([image] * NUM_GLIMPSES, _of(look, "read_window")) for image, look in zip(images, looks, strict=True)]
    written = [(_of(look, "picture"), _of(look, "window")) for look in looks]
    pairs = [row for pair in zip(read, written, strict=True) for row in pair]
    draw_glimpses(pairs, CONFIG.read_size, folder / "looked.png")


_DIGITS = range(NUM_CLASSES)
_SEEDS = range(NUM_PAINTED)


async def _paint(client: Client, digit: int, seed: int) -> StepResult:
    """All glimpses of a session; each could be asked for alone, and would be the same."""
    label = torch.eye(NUM_CLASSES)[digit].tolist()
    async with client.open("paint", seed=seed, contexts={"label": label}) as session:
        return await session.step(NUM_GLIMPSES, outputs=["picture", "window"])


async def _look(client: Client, image: Array, label: Array) -> StepResult:
    async with client.open("look", seed=0, contexts={"image": image, "label": label}) as session:
        return await session.step(NUM_GLIMPSES, outputs=["picture", "window", "read_window"])


def _of(result: StepResult, name: str) -> Array:
    array: Array = result[name].numpy()
    return array


def _noise(num_images: int) -> Tensor:
    return torch.randn(NUM_GLIMPSES, num_images, CONFIG.latent_size)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser("paint_digits", description="DRAW, from training to a server that paints digits.")
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="folder of models and pictures")
    parser.add_argument("--updates", type=int, default=5000, help="default %(default)s")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # tensors this small gain nothing from more
    training, held_out = read_digits()
    draw = train(training, Fit(options.updates))
    sys.stdout.write(f"bound on {len(held_out.images)} held-out digits: {mean_bound(draw, held_out):.2f} nats each\n")
    models = options.out / "models"
    for name, form in (("paint", Paint(draw)), ("look", Look(draw))):
        sys.stdout.write(f"{export_model(form, models / name / '1' / 'model.onnx')}\n")
    asyncio.run(show(models, held_out, options.out))
    sys.stdout.write(f"pictures: {', '.join(str(path) for path in sorted(options.out.glob('*.png')))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
