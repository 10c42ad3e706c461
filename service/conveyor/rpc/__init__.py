"""The gRPC face of the engine: servicers that convert, call and convert."""
