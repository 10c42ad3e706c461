"""The key that seals exported checkpoints: from the settings, or one of its own that the state folder keeps."""

import os
import secrets
from pathlib import Path

from conveyor.engine.seal import Seal

FILE = "seal.key"


def open_seal(key: str, state_dir: Path | None) -> Seal:
    """The seal of a key. Without one, of the key in the folder, made if need be; without a folder, of this process.

    Raises:
        OSError: the folder cannot be written, or the key in it is empty.
    """
    if key:
        return Seal(key.encode())
    if state_dir is None:
        return Seal(secrets.token_bytes())
    path = state_dir / FILE
    try:
        found = _read_or_make(path)
    except OSError as error:
        raise OSError(f"state_dir: cannot keep a key in {path}: {error.strerror}") from None
    if not found.strip():  # of a disk that was full, say; everybody knows the seal of such a key
        raise OSError(f"state_dir: the key in {path} is empty; remove the file to have another made")
    return Seal(found)


def _read_or_make(path: Path) -> bytes:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Written whole before it has its name: another server that starts in the same folder reads all of it.
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(secrets.token_hex())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_bytes()
