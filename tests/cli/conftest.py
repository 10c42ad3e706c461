"""A server for the tests of the command line."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.serving import ServerProcess, serving, write_models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[ServerProcess]:
    with serving(models) as process:
        yield process
