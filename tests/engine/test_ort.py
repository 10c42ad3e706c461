"""Where ONNX Runtime's sessions run, and what is said of it."""

import logging

import onnxruntime
import pytest

from conveyor.engine.limits import Device
from conveyor.engine.ort import CPU, CUDA, Placement, report_nodes_off_cuda, resolve
from conveyor.errors import FailedPrecondition


def test_the_cpu_is_taken_as_asked() -> None:
    """A device that is the CPU stays as it is."""
    assert resolve(Device("cpu", num_threads=3)) == Device("cpu", num_threads=3)


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="CUDA is there")
@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("available", [[CPU], [CUDA, CPU]])
def test_cuda_that_cannot_be_used(available: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A build without CUDA and a build with it on a machine without a GPU end alike: refused, or the CPU for `auto`."""
    # The GPU build lists CUDA wherever it is installed, and a session of it then quietly is on the CPU.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)

    assert resolve(Device("auto")).provider == "cpu"
    with pytest.raises(FailedPrecondition, match="cuda was asked for"):
        resolve(Device("cuda"))


def test_nodes_off_the_gpu_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An operator reads which nodes cross over to the CPU; a graph that is all on the GPU is not worth a line."""
    with caplog.at_level(logging.WARNING, logger="conveyor.engine"):
        report_nodes_off_cuda([Placement("gather", "Gather", CUDA)])
        assert not caplog.records
        report_nodes_off_cuda([Placement("gather", "Gather", CUDA), Placement("rnn", "RNN", CPU)])

    assert caplog.messages == ["1 of 2 nodes run on the CPU: rnn (RNN)"]
