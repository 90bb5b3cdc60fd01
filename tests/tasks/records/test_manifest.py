"""Records contain their own checksum and name no files of others."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import CorruptionError
from tasks.records.ledger import FrameCounts
from tasks.records.manifest import (
    Day,
    Manifest,
    ObjectReceipt,
    Place,
    Receipt,
    Removed,
    Report,
    Seal,
    decode,
    encode,
    quarantined_files,
    read,
    record_sha256,
    sha256_said,
)
from tasks.records.names import BatchName

NAME = BatchName("20261124T143000Z-9f3c01ab", 0, 3)
SEAL = Seal(
    batch=str(NAME), feed="finnhub", date="2026-11-24", symbols=("A",), lanes=1, opened_ns=1, sealed_ns=2, rows=3,
    bytes=4, sha256="5" * 64, frames=FrameCounts(received=3, trade=3), trades_refused=0, connections=(), per_symbol={},
)  # fmt: skip
REPORT = Report(rows=3, valid=2, quarantined=1)
MANIFEST = Manifest(
    batch=str(NAME), file=NAME.archives[0], layout="l", software="s", rows=2, bytes=9, sha256="6" * 64,
    first_event_ns=1, last_event_ns=2, first_recv_ns=3, last_recv_ns=4, seal=SEAL, report=REPORT,
)  # fmt: skip
DAY = Day(
    feed="finnhub", date="2026-11-24", file="2026-11-24-0a1b.parquet", software="s", rows=2, bytes=9, sha256="7" * 64,
    batches=(MANIFEST,),
)  # fmt: skip
REMOVED = Removed(batch=str(NAME), file="a.parquet", removed_ns=1, why="age", held_in=("days/x",))


def receipt(key: str, **changes: Any) -> Receipt:
    """A receipt whose record was uploaded to that key."""
    one = ObjectReceipt(key=key, bytes=1, sha256="8" * 64, etag="e", version=None, checked="etag")
    return Receipt(**{"batch": "b", "bucket": "tape", "endpoint": None, "uploaded_ns": 1, "object": None,
                      "manifest": one, **changes})  # fmt: skip


def test_a_record_ends_in_the_hash_of_the_rest_and_comes_back(tmp_path: Path) -> None:
    """The last field is the SHA-256 of the rest; the file is indented by two spaces and ends with a line feed."""
    content = encode(SEAL)
    assert content.startswith(b'{\n  "batch": "20261124T143000Z-9f3c01ab')
    head, _, tail = content.rpartition(b',\n  "record_sha256": "')
    digest = sha256(head + b"\n}\n").hexdigest()
    assert tail == digest.encode() + b'"\n}\n'
    assert json.loads(content)["record_sha256"] == record_sha256(SEAL) == digest
    path = tmp_path / "record.json"
    path.write_bytes(content)
    assert read(path, Seal) == decode(content, Seal, path) == SEAL
    assert sha256_said(path) == digest


def test_a_record_that_is_another_is_corrupt_and_named() -> None:
    """A flipped byte, another kind of record, and a non-record each raise an error with file and next step."""
    content = encode(SEAL)
    for place in range(0, len(content), 7):
        with pytest.raises(CorruptionError, match=r"here: its record_sha256 .*restore"):
            decode(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :], Seal, "here")
    for content, said in ((encode(REPORT), "not a Seal record"), (b"", "record_sha256"), (b"{}\n", "record_sha256")):
        with pytest.raises(CorruptionError, match=f"here: .*{said}.*restore it from a copy"):
            decode(content, Seal, "here")
    body = b'{\n  "batch": "\xff"\n}\n'
    vouched = body.removesuffix(b"\n}\n") + b',\n  "record_sha256": "%s"\n}\n' % sha256(body).hexdigest().encode()
    with pytest.raises(CorruptionError, match="not a Seal record"):
        decode(vouched, Seal, "here")


def test_what_is_larger_than_any_record_is_not_read(tmp_path: Path) -> None:
    """Neither from a file nor from a bucket; one of the largest size is."""
    path, content = tmp_path / "record.json", encode(SEAL)
    path.write_bytes(content)
    size = len(content)
    assert read(path, Seal, size) == decode(content, Seal, path, size) == SEAL
    for asked in (lambda: read(path, Seal, size - 1), lambda: decode(content, Seal, path, size - 1)):
        with pytest.raises(CorruptionError, match=r"record\.json: is larger than .* restore it from a copy"):
            asked()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read(path, Seal)


@pytest.mark.parametrize("content", [b"", b"x", b'"', b'{\n  "a": "b"\n}\n', b"\xff" * 500])
def test_a_file_that_is_no_record_says_no_hash(tmp_path: Path, content: bytes) -> None:
    """Any content gives some text and raises nothing."""
    path = tmp_path / "record.json"
    path.write_bytes(content)
    assert len(sha256_said(path)) != 64
    path.write_bytes(content + encode(SEAL))
    assert sha256_said(path) == record_sha256(SEAL)


@pytest.mark.parametrize(
    ("record", "change"),
    [
        (SEAL, {"batch": "../x"}),
        (SEAL, {"batch": f"{NAME}.csv"}),
        (SEAL, {"feed": "../x"}),
        (SEAL, {"date": "today"}),
        (SEAL, {"quarantine": {NAME.cut: "0", "other.csv": "0"}}),
        (MANIFEST, {"batch": "../x"}),
        (MANIFEST, {"file": f"../{NAME.archives[0]}"}),
        (MANIFEST, {"file": ""}),
        (DAY, {"feed": "../x"}),
        (DAY, {"date": "today"}),
        (DAY, {"file": "2026-11-25-0a1b.parquet"}),
        (DAY, {"file": "2026-11-24-0a1b.parquet/"}),
        (DAY, {"file": "2026-11-24-XY.parquet"}),
        (REMOVED, {"file": ""}),
        (REMOVED, {"file": "."}),
        (REMOVED, {"file": ".."}),
        (REMOVED, {"file": "a/b"}),
        (REMOVED, {"file": "a\0b"}),
    ],
)
def test_a_record_names_no_file_but_its_own(record: Any, change: dict[str, object]) -> None:
    """A record with unsafe names is rejected, because it may come from a bucket."""
    with pytest.raises(ValueError):
        replace(record, **change)


def test_what_a_record_may_name_it_may_name() -> None:
    """Each file of quarantine, each form of the archive, and no file."""
    names = (NAME.rejected_frames, NAME.cut, NAME.cut_frames)
    assert replace(SEAL, quarantine=dict.fromkeys(names, "0")).quarantine.keys() == {*names}
    assert [replace(MANIFEST, file=name).file for name in (*NAME.archives, None)] == [*NAME.archives, None]
    assert replace(DAY, file=None).file is None
    assert [replace(REMOVED, file=name).file for name in ("...", ".a", "X")] == ["...", ".a", "X"]


def test_the_files_of_a_batch_in_quarantine() -> None:
    """Quarantine files are the capture's, the rejected rows, and a batch rejected as a whole."""
    assert quarantined_files(MANIFEST) == {}
    whole = replace(
        MANIFEST, seal=replace(SEAL, quarantine={NAME.cut: "c"}),
        report=replace(REPORT, quarantine_sha256="r", structural="why"),
    )  # fmt: skip
    assert quarantined_files(whole) == {NAME.cut: "c", NAME.rejected_rows: "r", NAME.rejected_batch: SEAL.sha256}
    assert whole.seal.quarantine == {NAME.cut: "c"}


@pytest.mark.parametrize(
    ("key", "is_it"),
    [
        ("p/feed=f/x", True), ("p/_sessions/x", True), ("p-by-day/feed=f/x", True), ("q/feed=f/x", False),
        ("p/other/x", False), ("/feed=f/x", False), ("pp/feed=f/x", False), ("p-by-day/x", False), ("p", False),
    ],
)  # fmt: skip
def test_a_receipt_is_of_the_place_that_gave_it(key: str, is_it: bool) -> None:
    """A receipt matches a place if bucket, store, and key prefix match."""
    place = Place(bucket="tape", endpoint=None, prefix="p")
    assert receipt(key).is_of(place) is is_it
    assert not receipt(key, bucket="other").is_of(place)
    assert not receipt(key, endpoint="http://x").is_of(place)
    assert not receipt(key).is_of(replace(place, endpoint="http://x"))


def test_the_record_of_an_upload_is_its_last_object() -> None:
    """Objects are ordered: archived file, quarantine files, then the record."""
    record = receipt("p").manifest
    file, beside = replace(record, key="file"), (replace(record, key="b1"), replace(record, key="b2"))
    assert receipt("p").objects == (record,)
    assert receipt("p", object=file, beside=beside).objects == (file, *beside, record)
