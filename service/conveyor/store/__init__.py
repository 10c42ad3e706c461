"""Where checkpoints of sessions are kept, so that these outlive the server."""

from conveyor.store.store import LISTED_BYTES, Record, Save, Saved, Store, StoreError

__all__ = ["LISTED_BYTES", "Record", "Save", "Saved", "Store", "StoreError"]
