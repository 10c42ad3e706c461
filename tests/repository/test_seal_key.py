"""The key that seals exported checkpoints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from conveyor.engine.seal import Seal
from conveyor.errors import FailedPrecondition
from conveyor.repository.seal_key import FILE, open_seal

PARTS = (b"head", b"state")


def is_same(one: Seal, other: Seal) -> bool:
    """True if each opens what the other closed."""
    try:
        return one.open(other.close(*PARTS)) == PARTS == other.open(one.close(*PARTS))
    except FailedPrecondition:
        return False


def test_a_given_key_is_used(tmp_path: Path) -> None:
    """The same on all servers, whatever their folders; and none is written down."""
    assert is_same(open_seal("secret", tmp_path), open_seal("secret", None))
    assert not is_same(open_seal("secret", tmp_path), open_seal("other", tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_folder_keeps_one(tmp_path: Path) -> None:
    """Made once, in a folder that may not be there yet, for all that start in it; another folder has another."""
    folder = tmp_path / "new" / "state"
    first = open_seal("", folder)

    assert is_same(first, open_seal("", folder))
    assert not is_same(first, open_seal("", tmp_path / "other"))
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    """Nor look into the folder, if it is made for it."""
    folder = tmp_path / "state"
    open_seal("", folder)

    assert (folder / FILE).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_keys_are_not_guessed(tmp_path: Path) -> None:
    """256 random bits, other ones each time."""
    keys = set()
    for name in "abc":
        open_seal("", tmp_path / name)
        keys.add((tmp_path / name / FILE).read_text())

    assert len(keys) == 3
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)


def test_without_a_folder_it_is_the_process_s_own() -> None:
    """What it sealed is of no use later."""
    assert not is_same(open_seal("", None), open_seal("", None))


def test_servers_that_start_together_agree(tmp_path: Path) -> None:
    """One of them makes the key, and all use it."""
    script = (
        "import sys; from pathlib import Path; from conveyor.repository.seal_key import open_seal; "
        "print(open_seal('', Path(sys.argv[1])).close(b'head', b'state').hex())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "state")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sealed = {process.communicate(timeout=60)[0].strip() for process in processes}

    assert len(sealed) == 1
    assert open_seal("", tmp_path / "state").open(bytes.fromhex(sealed.pop())) == PARTS
    assert [path.name for path in (tmp_path / "state").iterdir()] == [FILE]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """With the setting's name and the file's."""
    (tmp_path / "state").touch()
    with pytest.raises(OSError, match=re.escape(f"state_dir: cannot keep a key in {tmp_path / 'state' / FILE}: File")):
        open_seal("", tmp_path / "state")


def test_an_empty_key_is_refused(tmp_path: Path) -> None:
    """Anybody could seal with it."""
    (tmp_path / FILE).write_text("\n")
    with pytest.raises(OSError, match=re.escape(f"state_dir: the key in {tmp_path / FILE} is empty")):
        open_seal("", tmp_path)
