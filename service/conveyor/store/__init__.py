"""Where checkpoints of sessions are kept, so that these outlive the server."""
