"""Measures the server beside what it is built on: bare ONNX Runtime and a bare gRPC echo service."""
