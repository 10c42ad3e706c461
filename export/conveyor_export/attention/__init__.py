"""Decoders that look at annotations as they go, one file each; they follow the protocol of modules."""
