"""Sessions, their state and the batches that advance them. Knows nothing of gRPC."""
