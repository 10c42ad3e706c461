"""The layers of a model whose gates can be watched."""

import re
from dataclasses import dataclass

from conveyor.client import Model


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that offers its gates as optional outputs: `cell0` is the gate `cell` of layer 0."""

    number: int
    gates: tuple[str, ...]
    num_units: int

    def output(self, gate: str) -> str:
        """Name of the output that has a gate of all units."""
        return f"{gate}{self.number}"


def find_layer(model: Model, number: int | None, gate: str, unit: int | None) -> Layer:
    """The layer of this number, or the last; it has the gate and, if one is given, the unit.

    Raises:
        ValueError: the model offers no gates, or not these.
    """
    layers = offered_layers(model)
    if not layers:
        raise ValueError(f"model {model.name} offers no gates: export it again with conveyor-export --gates")
    layer = layers.get(max(layers) if number is None else number)
    if layer is None:
        raise ValueError(f"--layer {number}: model {model.name} offers layers {', '.join(map(str, sorted(layers)))}")
    if gate not in layer.gates:
        raise ValueError(f"--gate {gate}: layer {layer.number} offers {', '.join(layer.gates)}")
    if unit is not None and not 0 <= unit < layer.num_units:
        raise ValueError(f"--unit {unit}: layer {layer.number} has units 0 to {layer.num_units - 1}")
    return layer


def offered_layers(model: Model) -> dict[int, Layer]:
    """The layers by their numbers; where gates are not equally wide, a layer has as many units as the narrowest."""
    found: dict[int, dict[str, int]] = {}
    for info in model.outputs:
        match = re.fullmatch(r"([a-z_]+)(\d+)", info.name)
        if match and info.is_optional and len(info.shape) == 1:
            found.setdefault(int(match[2]), {})[match[1]] = info.shape[0]
    return {number: Layer(number, tuple(gates), min(gates.values())) for number, gates in found.items()}
