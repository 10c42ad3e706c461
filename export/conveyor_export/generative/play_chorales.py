"""Trains VRNN and STORN on Bach's chorales, exports and serves them, and has them score and compose chorales.

python -m conveyor_export.generative.play_chorales --out runs/chorales
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conveyor.client import Client
from conveyor_export.export import export_model
from conveyor_export.generative.chorales import NUM_KEYS, Chorales, pad, read_chorales
from conveyor_export.generative.fitting import Fit, fit
from conveyor_export.generative.forms import Generate, Score
from conveyor_export.generative.pictures import Array, draw_rolls
from conveyor_export.generative.sequence_model import SequenceModel, Sizes
from conveyor_export.generative.serving import serve
from conveyor_export.generative.storn import STORN
from conveyor_export.generative.vrnn import VRNN

# Of each: sizes and training. An update of VRNN takes about three times as long.
MODELS: dict[str, tuple[Any, Sizes, Fit]] = {
    "storn": (STORN, Sizes(NUM_KEYS, 16, 200, "bits"), Fit(4000, 3e-3, clip_norm=1)),
    "vrnn": (VRNN, Sizes(NUM_KEYS, 16, 128, "bits"), Fit(2000, 3e-3, clip_norm=1)),
}
BATCH_SIZE = 32
MOST_TRANSPOSED = 3  # semitones up or down
NUM_COMPOSED, NUM_QUARTERS = 3, 64


def train(name: str, rolls: list[Tensor], num_updates: int | None) -> SequenceModel:
    """A model of the rolls `[steps, NUM_KEYS]`."""
    make, sizes, plan = MODELS[name]
    model: SequenceModel = make(sizes)
    by_length = sorted(rolls, key=len)  # chorales of about one length waste few steps

    def bound() -> Tensor:
        first = int(torch.randint(max(1, len(rolls) - BATCH_SIZE), ()))
        x, there = pad([_transpose(roll) for roll in by_length[first : first + BATCH_SIZE]])
        return (model.bound(x, torch.randn(*there.shape, sizes.latent_size)) * there).sum() / there.sum()

    fit(model, bound, Fit(num_updates or plan.num_updates, plan.learning_rate, plan.clip_norm))
    return model.eval()


async def show(models: Path, names: Sequence[str], held_out: list[Tensor], folder: Path) -> dict[str, float]:
    """Writes a picture of chorales that sessions of the server compose; returns each model's served bound a step."""
    rolls: dict[str, Sequence[Array]] = {"Bach, held out": [roll.numpy() for roll in held_out[:NUM_COMPOSED]]}
    bounds = {}
    async with serve(models) as client:
        for name in names:
            scored = await asyncio.gather(*(_score(client, f"{name}_score", roll) for roll in held_out))
            bounds[name] = sum(scored) / sum(len(roll) for roll in held_out)
            rolls[name] = await asyncio.gather(*(_compose(client, name, seed) for seed in range(NUM_COMPOSED)))
    draw_rolls(rolls, folder / "chorales.png")
    return bounds


async def _score(client: Client, name: str, roll: Tensor) -> float:
    """The bound of a chorale, in one draw of its latent variables."""
    async with client.open(name, seed=0) as session:
        terms = await session.step(roll.numpy(), outputs=["log_likelihood", "kl"])
    return float((terms["log_likelihood"].numpy() - terms["kl"].numpy()).sum())


async def _compose(client: Client, name: str, seed: int) -> Array:
    async with client.open(name, seed=seed) as session:
        roll: Array = (await session.step(NUM_QUARTERS, outputs=["x"]))["x"].numpy()
    return roll


def _transpose(roll: Tensor) -> Tensor:
    """The outer three keys are silent, so that none comes back at the other end."""
    return roll.roll(int(torch.randint(-MOST_TRANSPOSED, MOST_TRANSPOSED + 1, ())), 1)


def run(chorales: Chorales, out: Path, num_updates: int | None) -> None:
    """All but reading the chorales."""
    models = out / "models"
    for name in MODELS:
        model = train(name, chorales.training, num_updates)
        for served, form in ((name, Generate(model)), (f"{name}_score", Score(model))):
            sys.stdout.write(f"{export_model(form, models / served / '1' / 'model.onnx')}\n")
    bounds = asyncio.run(show(models, tuple(MODELS), chorales.held_out, out))
    for name, bound in bounds.items():
        sys.stdout.write(f"{name}: bound on {len(chorales.held_out)} held-out chorales: {bound:.2f} nats a quarter\n")
    sys.stdout.write(f"picture: {out / 'chorales.png'}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser("play_chorales", description="VRNN and STORN, from training to a server.")
    parser.add_argument("--out", type=Path, default=Path("runs/chorales"), help="folder of models and picture")
    parser.add_argument("--updates", type=int, help="instead of what each model takes")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # tensors this small gain nothing from more
    run(read_chorales(), options.out, options.updates)
    return 0


if __name__ == "__main__":
    sys.exit(main())
