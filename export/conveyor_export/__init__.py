"""Turns recurrent PyTorch modules into ONNX files that Conveyor serves, each proven equal before it is written."""
