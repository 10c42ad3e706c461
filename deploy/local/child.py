"""A Python process that answers over a pipe, so that what is in it shares no interpreter lock with the rest."""

import multiprocessing
from collections.abc import Callable
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self

_PROCESSES = multiprocessing.get_context("spawn")  # a forked gRPC or ONNX Runtime does not work

Arguments = ParamSpec("Arguments")


class Child:
    """Runs `work(connection, *arguments)` in a process of its own; what it sends first is `started`. `with` ends it."""

    def __init__(
        self,
        work: Callable[Concatenate[Any, Arguments], None],
        *arguments: Arguments.args,
        **options: Arguments.kwargs,
    ) -> None:
        self._connection, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=work, args=(theirs, *arguments), kwargs=options, daemon=True)
        self._process.start()
        theirs.close()
        self.started: Any = self._connection.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()

    def send(self, message: object) -> None:
        """Sends something to it."""
        self._connection.send(message)

    def ask(self, message: object) -> Any:
        """Sends something to it and returns the answer."""
        self._connection.send(message)
        return self._connection.recv()
