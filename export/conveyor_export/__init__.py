"""Turns recurrent PyTorch modules into ONNX files that Conveyor serves, each proven equal before it is written."""

from conveyor_export.errors import ExportError
from conveyor_export.export import ExportOptions, export_model
from conveyor_export.precision import Precision
from conveyor_export.protocol import RecurrentModule
from conveyor_export.report import ExportReport

__all__ = ["ExportError", "ExportOptions", "ExportReport", "Precision", "RecurrentModule", "export_model"]
