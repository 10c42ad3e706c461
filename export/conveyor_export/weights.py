"""The weights that a demo has trained, kept in a file from one run to the next."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm


def train_once(module: nn.Module, path: Path, train: Callable[[], object]) -> None:
    """Gives a module the weights in the file, or trains it and writes them there; leaves it in evaluation mode.

    Raises:
        OSError: there cannot be such a file; nothing is trained then.
    """
    if path.exists():
        module.load_state_dict(torch.load(path, weights_only=True))
        tqdm.write(f"{path}: trained before")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        train()
        torch.save(module.state_dict(), path)
    module.eval()
