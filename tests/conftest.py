"""What all tests share."""

import logging
import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps the servers that tests start away from the state of others."""
    os.environ["CONVEYOR_STATE_DIR"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True, scope="session")
def _no_trials() -> None:
    """Has the processes that tests start load their models at once, if the test does not say otherwise."""
    os.environ["CONVEYOR_TRIAL_SECONDS"] = "0"


# By default an example that takes 0.2 s fails, which says more of the machine than of the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# The references are small: a second thread costs them more in waiting than it saves, above all on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _unchanged_logging() -> Iterator[None]:
    """Takes away the handlers that a command run in process has set up: their stream is closed with the test."""
    root = logging.getLogger()
    level, before = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in root.handlers[:]:
        if handler not in before and not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
