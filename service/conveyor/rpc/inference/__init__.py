"""`inference.GRPCInferenceService`: the Open Inference Protocol on the engines of the native API."""
