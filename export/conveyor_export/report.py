"""What an export tells its user: sizes, proof, cost of a smaller form."""

from dataclasses import dataclass
from pathlib import Path

from conveyor.signature import Signature
from conveyor_export.precision import Precision
from conveyor_export.proof import Proof


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The facts of one export. `cost` compares the written form with the float32 module, None where it is the same.

    `bits_per_character` is of the given text, before and after the change of precision; None without a text.
    """

    path: Path
    signature: Signature
    precision: Precision
    num_parameters: int
    num_bytes: int
    proof: Proof
    cost: Proof | None = None
    bits_per_character: tuple[float, float] | None = None
    notice: str = ""

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _contexts(self) -> list[str]:
        """A line for a model that has some."""
        contexts = ", ".join(
            f"{c.name} {list(c.shape)} {c.dtype}{' (computed)' if c.initialiser else ''}"
            for c in self.signature.contexts
        )
        return [f"contexts: {contexts}; {self.signature.context_bytes:,} bytes per session"] if contexts else []

    def _lines(self) -> list[str]:
        signature = self.signature
        states = ", ".join(f"{s.name} {list(s.shape)} {s.dtype}" for s in signature.states) or "none"
        size = f"{self.num_bytes / 1e6:.2f} MB, {self.num_parameters:,} parameters"
        lines = [f"{self.path}: {size}, {self.precision.value}"]
        lines += [f"notice: {self.notice}"] if self.notice else []
        lines += [
            f"states: {states}; {signature.state_bytes:,} bytes per session",
            *self._contexts(),
            f"steps per run: {signature.fixed_steps or 'any number'}",
            f"proof against PyTorch: {self.proof.num_runs} runs, {self.proof}",
        ]
        lines += [f"cost of {self.precision.value}: {self.cost}"] if self.cost else []
        if self.bits_per_character:
            before, after = self.bits_per_character
            change = f" (float32: {before:.4f})" if self.cost else ""
            lines.append(f"bits per character: {after:.4f}{change}")
        return lines
