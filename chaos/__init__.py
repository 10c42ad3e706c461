"""Clients under load while replicas, store and proxy are killed, paused and restarted; every answer is checked."""
