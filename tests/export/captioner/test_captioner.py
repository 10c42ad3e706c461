"""The captioner learns to spell, and a server that runs its graph reads as PyTorch does."""

import asyncio
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from conveyor.client import connect
from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor_export.attention.decoder import BOUNDARY
from conveyor_export.captioner import command
from conveyor_export.captioner.model import Captioner
from conveyor_export.captioner.reading import Caption, read_images
from conveyor_export.captioner.training import train
from conveyor_export.digits import MOST_LETTERS, NAMES, SYMBOLS, read_digits, spell
from conveyor_export.export import export_model

PAGE = Path(__file__).parents[3] / "docs" / "attention.md"
LEARNED, HELD_OUT = read_digits()
READ = HELD_OUT[:20]


@dataclass(frozen=True)
class Served:
    """What came of a little training, and what a server made of it; `example` is what the page's example printed."""

    captioner: Captioner
    losses: list[float]
    captions: list[Caption]
    example: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    torch.manual_seed(0)
    captioner, losses = Captioner(), list[float]()
    train(captioner, LEARNED[:500], 15, losses.append)
    folder = tmp_path_factory.mktemp("models")
    export_model(captioner, folder / "captioner" / "1" / "model.onnx", vocabulary=SYMBOLS)
    return Served(captioner, losses, *asyncio.run(serve(folder)))


async def serve(folder: Path) -> tuple[list[Caption], str]:
    # Fewer slots than sessions: contexts leave the arena and come back.
    settings = Settings(models=folder, port=0, metrics_port=0, store="none", num_threads=1, num_slots=4, max_batch=4)
    async with await start_server(settings) as server, connect(server.address) as client:
        captions = await read_images(client, "captioner", READ)
        (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
        code = example.replace("localhost:50051", server.address)
        done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return captions, done.stdout


@torch.no_grad()
def read_eagerly(captioner: Captioner, image: torch.Tensor) -> tuple[str, list[np.ndarray]]:
    """The name and the looks, by PyTorch alone."""
    opened, name, looks, token = captioner.initialise({"image": image[None]}), "", [], BOUNDARY
    states = opened
    while len(looks) <= MOST_LETTERS:
        outputs, states = captioner({"tokens": torch.tensor([[token]]), **opened}, states)
        looks.append(outputs["attention"].numpy().reshape(8, 8))
        token = int(outputs["logits"].argmax())
        if token == BOUNDARY:
            break
        name += SYMBOLS[token]
    return name, looks


def test_it_learns(served: Served) -> None:
    """The letters' loss falls from that of a guess among all of them."""
    assert served.losses[0] == pytest.approx(np.log(len(SYMBOLS)), abs=0.5)
    assert np.mean(served.losses[-10:]) < 0.5


def test_a_server_reads_as_pytorch_does(served: Served) -> None:
    """Sessions of images spell the same names, and look at the same places within 1e-4."""
    for image, caption in zip(READ.images, served.captions, strict=True):
        name, looks = read_eagerly(served.captioner, image)
        assert caption.name == name
        np.testing.assert_allclose(caption.looks, np.stack(looks), atol=1e-4)
        assert caption.looks.sum((1, 2)) == pytest.approx(1, abs=1e-5)
    assert len({caption.name for caption in served.captions}) > 2


def test_the_example_of_the_page_reads_an_image(served: Served) -> None:
    """The code of docs/attention.md, as printed there, spells what the captioner sees in the first digit."""
    image = torch.tensor(load_digits().images[0] / 16, dtype=torch.float32)
    assert served.example == f"{read_eagerly(served.captioner, image)[0]}.\n"


def test_digits() -> None:
    """The held-out images are not among those to learn from; names are spelled and end."""
    assert (len(LEARNED), len(HELD_OUT)) == (1500, 297)
    assert set(LEARNED.labels.tolist()) == set(HELD_OUT.labels.tolist()) == set(range(10))
    learned = {tuple(image.flatten().tolist()) for image in LEARNED.images}
    assert not learned & {tuple(image.flatten().tolist()) for image in HELD_OUT.images}
    assert ["".join(SYMBOLS[token] for token in spell(label)) for label in range(10)] == [f"{n}." for n in NAMES]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It trains, proves, serves, tells how many names were right and draws; what it learned is kept."""
    monkeypatch.setattr(command, "NUM_EPOCHS", 1)

    assert command.main(["--out", str(tmp_path)]) == 0
    assert re.search(r"held-out digits spelled right: \d+ of 297 \(\d+\.\d%\)", capsys.readouterr().out)
    assert (tmp_path / "captions.png").read_bytes().startswith(b"\x89PNG")
    Captioner().load_state_dict(torch.load(tmp_path / "captioner.pt", weights_only=True))
