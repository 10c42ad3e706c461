"""Where checkpoints of sessions are kept, so that these outlive the server."""

from conveyor.store.store import Record, Save, Saved, Store, StoreError

__all__ = ["Record", "Save", "Saved", "Store", "StoreError"]
