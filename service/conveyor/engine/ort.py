"""Makes ONNX Runtime sessions, and says honestly where they run."""

import logging
from dataclasses import dataclass, replace

import onnxruntime

from conveyor.engine.limits import Device
from conveyor.errors import FailedPrecondition
from conveyor.graph.builder import GraphBuilder, value_info
from conveyor.graph.errors import ModelError

RUNTIME_VERSION: str = onnxruntime.__version__
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

log = logging.getLogger("conveyor.engine")


@dataclass(frozen=True, slots=True)
class Placement:
    """A node and the provider that ONNX Runtime gave it to."""

    name: str
    op_type: str
    provider: str


def resolve(device: Device) -> Device:
    """The device with `auto` replaced by what works here: the GPU if it does, the CPU if not.

    Raises:
        FailedPrecondition: CUDA was asked for and does not work here.
    """
    if device.provider == "cpu":
        return device
    if CUDA not in onnxruntime.get_available_providers():
        return _without_cuda(device, "the installed ONNX Runtime is without it")
    onnxruntime.preload_dlls()
    # ONNX Runtime only prints when the GPU can't be used, and carries on with the CPU.
    probe = make_session(_probe_model(), replace(device, provider="cuda"), 1)
    if probe.get_providers()[0] != CUDA:
        return _without_cuda(device, "ONNX Runtime cannot use it here; see its messages")
    return replace(device, provider="cuda")


def make_session(graph: bytes, device: Device, num_threads: int) -> onnxruntime.InferenceSession:
    """A session on a device that was resolved.

    Raises:
        ModelError: ONNX Runtime does not take the graph.
    """
    providers: list[object] = [CPU] if device.provider == "cpu" else [(CUDA, _cuda_options(device)), CPU]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # A spinning worker takes the core that the messages need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # it has a dozen kinds
        raise ModelError(f"ONNX Runtime cannot load the graph: {str(error).splitlines()[0]}") from error


def node_placement(session: onnxruntime.InferenceSession) -> list[Placement]:
    """Every node of the optimised graph, and where it runs."""
    return [
        Placement(node.name, node.op_type, subgraph.ep_name)
        for subgraph in session.get_provider_graph_assignment_info()
        for node in subgraph.get_nodes()
    ]


def report_nodes_off_cuda(placement: list[Placement]) -> None:
    """Logs the nodes of a model on a GPU that run on the CPU: data crosses over for each of them in every run."""
    away = [f"{node.name} ({node.op_type})" for node in placement if node.provider != CUDA]
    if away:
        log.warning("%d of %d nodes run on the CPU: %s", len(away), len(placement), ", ".join(away))


def _without_cuda(device: Device, problem: str) -> Device:
    if device.provider == "cuda":
        raise FailedPrecondition(f"provider: cuda was asked for, but {problem}")
    log.info("running on the CPU: no CUDA, %s", problem)
    return replace(device, provider="cpu")


def _probe_model() -> bytes:
    builder = GraphBuilder()
    builder.add("Relu", ["x"], "y")
    x, y = (value_info(name, "float32", [1]) for name in ("x", "y"))
    serialized: bytes = builder.model([x], [y]).SerializeToString()
    return serialized


def _cuda_options(device: Device) -> dict[str, str]:
    return {
        "device_id": str(device.device_id),
        "arena_extend_strategy": "kSameAsRequested",
        # TF32 keeps 10 bits of mantissa: answers would differ from PyTorch's by 1e-3.
        "use_tf32": "0",
    }
