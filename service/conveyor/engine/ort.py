"""Makes ONNX Runtime sessions, and says honestly where they run."""

import logging
from dataclasses import dataclass

import onnxruntime

from conveyor.engine.limits import Device
from conveyor.errors import FailedPrecondition

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

log = logging.getLogger("conveyor.engine")


@dataclass(frozen=True, slots=True)
class Placement:
    """A node and the provider that ONNX Runtime gave it to."""

    name: str
    op_type: str
    provider: str


def make_session(graph: bytes, device: Device, num_threads: int) -> onnxruntime.InferenceSession:
    """A session on the device asked for; `auto` takes the GPU if it works and the CPU if not.

    Raises:
        FailedPrecondition: CUDA was asked for and does not work here.
    """
    is_built_in = CUDA in onnxruntime.get_available_providers()
    if device.provider == "cuda" and not is_built_in:
        raise FailedPrecondition("provider: cuda was asked for, but the installed ONNX Runtime is without it")
    if device.provider == "cpu" or not is_built_in:
        return _make(graph, [CPU], num_threads)
    onnxruntime.preload_dlls()
    session = _make(graph, [(CUDA, _cuda_options(device)), CPU], num_threads)
    # ONNX Runtime only prints when the GPU can't be used, and carries on with the CPU.
    if session.get_providers()[0] != CUDA:
        if device.provider == "cuda":
            raise FailedPrecondition(
                "provider: cuda was asked for, but ONNX Runtime cannot use it here; see its messages"
            )
        log.warning("no usable GPU: running on the CPU")
    return session


def node_placement(session: onnxruntime.InferenceSession) -> list[Placement]:
    """Every node of the optimised graph, and where it runs."""
    return [
        Placement(node.name, node.op_type, subgraph.ep_name)
        for subgraph in session.get_provider_graph_assignment_info()
        for node in subgraph.get_nodes()
    ]


def _make(graph: bytes, providers: list[object], num_threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # A spinning worker takes the core that the messages need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=providers)


def _cuda_options(device: Device) -> dict[str, str]:
    return {
        "device_id": str(device.device_id),
        "arena_extend_strategy": "kSameAsRequested",
        # TF32 keeps 10 bits of mantissa: answers would differ from PyTorch's by 1e-3.
        "use_tf32": "0",
    }
