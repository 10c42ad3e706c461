"""The production layout on one machine: replicas behind Envoy, and Valkey for their checkpoints."""
