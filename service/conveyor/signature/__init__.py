"""The description of a model that exporters write, the server reads and clients are shown."""

from conveyor.signature.signature import Axis, ContextSpec, NoiseSpec, OutputSpec, Signature, StateSpec, TensorSpec
from conveyor.signature.vocabulary import Vocabulary

__all__ = [
    "Axis",
    "ContextSpec",
    "NoiseSpec",
    "OutputSpec",
    "Signature",
    "StateSpec",
    "TensorSpec",
    "Vocabulary",
]
