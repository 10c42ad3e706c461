"""Turns recurrent PyTorch modules into ONNX files that Conveyor serves, each proven equal before it is written."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conveyor_export.errors import ExportError
    from conveyor_export.export import ExportOptions, export_model
    from conveyor_export.precision import Precision
    from conveyor_export.protocol import RecurrentModule
    from conveyor_export.report import ExportReport

__all__ = ["ExportError", "ExportOptions", "ExportReport", "Precision", "RecurrentModule", "export_model"]

_HOMES = {
    "ExportError": "errors",
    "ExportOptions": "export",
    "ExportReport": "report",
    "Precision": "precision",
    "RecurrentModule": "protocol",
    "export_model": "export",
}


def __getattr__(name: str) -> Any:
    # Imported when first asked for: the commands have to start without torch, to say that it is missing.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
