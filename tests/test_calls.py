"""The recorder of system calls sees what our code asks of the disk, and finds what a power loss could undo."""

import os
from pathlib import Path

import pytest
from calls import Call, recorded

from tasks.storage.store import begun, publish, sync, unfinished, write_whole


def test_each_kind_of_change_is_seen_in_order(tmp_path: Path) -> None:
    """Folders, files, writes, cuts, syncs, new names and removals are recorded with their paths, one after another."""
    folder, file, other = tmp_path / "folder", tmp_path / "folder" / "file", tmp_path / "folder" / "other"
    with recorded() as calls:
        folder.mkdir()
        with file.open("wb") as content:
            content.write(b"123")
            content.truncate(2)
        descriptor = os.open(file, os.O_RDWR)
        os.write(descriptor, b"4")
        os.fdatasync(descriptor)
        os.close(descriptor)
        sync(folder)
        file.replace(other)
        other.unlink()
    assert calls.all == [
        Call("mkdir", folder), Call("create", file), Call("write", file), Call("truncate", file), Call("open", file),
        Call("write", file), Call("sync", file), Call("sync", folder), Call("rename", file, other),
        Call("unlink", other),
    ]  # fmt: skip
    assert not other.exists()
    file.write_bytes(b"not seen")
    assert len(calls.all) == 10


def test_a_call_may_be_refused(tmp_path: Path) -> None:
    """If the callback before a change raises, the change is not made."""

    def refuse(call: Call) -> None:
        raise OSError(28, "No space left on device")

    with recorded(refuse), pytest.raises(OSError, match="No space"):
        (tmp_path / "file").write_bytes(b"1")
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_order_is_not_at_risk(tmp_path: Path) -> None:
    """A file that is synced, renamed and synced in its folder may have what it was made of removed."""
    source, place = tmp_path / "source", tmp_path / "made"
    source.touch()
    with recorded() as calls:
        place.mkdir()
        sync(tmp_path)
        write_whole(place / "file", b"1")
        source.unlink()
    assert calls.at_risk() == []


def test_each_risk_is_told(tmp_path: Path) -> None:
    """A name that is given too early, one that no folder was synced for, and a removal before are each named."""
    source, file = tmp_path / "source", tmp_path / "file"
    source.touch()
    with recorded() as calls:
        begun(file).write_bytes(b"1")
        unfinished(file).replace(file)
        source.unlink()
        (tmp_path / "folder").mkdir()
    assert [each.replace(str(tmp_path), "") for each in calls.at_risk()] == [
        "/.file.tmp is renamed before it is synced",
        "/source is removed before the name of /file is synced",
        "the name of /file is never synced",
        "the name of /folder is never synced",
    ]
    with recorded() as calls:
        begun(file).write_bytes(b"2")
        publish(file)
    assert calls.at_risk() == []
