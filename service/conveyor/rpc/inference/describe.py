"""What models take and give, and how they are served, in the protocol's messages."""

from collections.abc import Iterable

from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.inference import model_config_pb2, model_pb2, repository_pb2
from conveyor.repository import Repository
from conveyor.rpc.inference.layout import Layout
from conveyor.rpc.inference.tensors import DATATYPES
from conveyor.signature import TensorSpec

PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"

TensorMetadata = model_pb2.ModelMetadataResponse.TensorMetadata


def metadata_message(engine: Engine, layout: Layout, versions: Iterable[int]) -> model_pb2.ModelMetadataResponse:
    """What a model takes and gives; `versions` are those of it that are loaded."""
    return model_pb2.ModelMetadataResponse(
        name=engine.name,
        versions=map(str, versions),
        platform=PLATFORM,
        inputs=[_metadata(layout, spec) for spec in layout.inputs.values()],
        outputs=[_metadata(layout, spec) for spec in layout.outputs.values()],
    )


def _metadata(layout: Layout, spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=spec.name, datatype=DATATYPES[spec.dtype], shape=layout.shape(spec))


def config_message(engine: Engine, layout: Layout) -> model_config_pb2.ModelConfig:
    """How a model is served."""
    config = model_config_pb2.ModelConfig(
        name=engine.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=engine.max_batch if layout.has_batch else 0,
        model_transaction_policy=model_config_pb2.ModelTransactionPolicy(decoupled=False),
    )
    for tensors, field in ((layout.inputs, config.input), (layout.outputs, config.output)):
        for spec in tensors.values():
            field.add(name=spec.name, data_type=f"TYPE_{DATATYPES[spec.dtype]}", dims=_dims(layout, spec))
    if layout.is_sequence:
        batching = config.sequence_batching
        batching.max_sequence_idle_microseconds = round(engine.limits.idle_timeout * 1e6)
        batching.oldest.max_candidate_sequences = engine.limits.max_sessions
    else:
        config.dynamic_batching.SetInParent()
    return config


def index_message(
    engines: Engines, repository: Repository, *, only_ready: bool
) -> repository_pb2.RepositoryIndexResponse:
    """What is loaded and, unless it is to be left out, what is leaving or cannot be served, with the reason."""
    response = repository_pb2.RepositoryIndexResponse()
    problems = dict(sorted(repository.problems.items()))
    for engine in engines.all():
        reason = problems.pop((engine.name, engine.version), "")
        is_retired = engines.is_retired(engine)
        if not (only_ready and is_retired):
            state = "UNLOADING" if is_retired else "READY"
            response.models.add(name=engine.name, version=str(engine.version), state=state, reason=reason)
    if not only_ready:
        for (name, version), reason in problems.items():
            response.models.add(name=name, version=str(version or ""), state="UNAVAILABLE", reason=reason)
    return response


def _dims(layout: Layout, spec: TensorSpec) -> list[int]:
    shape = layout.shape(spec)
    return shape[1:] if layout.has_batch else shape
