"""Is one object in the bucket what its receipt says, and what is said of one that is not?"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tasks.errors import RecorderError
from tasks.records.manifest import ObjectReceipt
from tasks.upload.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that is not as it should be: not uploaded, missing, different, foreign or abandoned."""

    kind: str
    key: str
    message: str


@dataclass(slots=True)
class Compared:
    """How many objects were asked for, their bytes by their receipts, and how many had to be downloaded."""

    objects: int = 0
    bytes: int = 0
    downloaded: int = 0


def compare(receipt: ObjectReceipt, objects: ObjectStore, listed: Collection[str], count: Compared) -> Iterator[Wrong]:
    """What is wrong with one object: by the store's own SHA-256, where it gives one of the whole, else by its bytes."""
    count.objects += 1
    count.bytes += receipt.bytes
    try:
        stored = objects.find(receipt.key)
        if stored is None:
            yield Wrong("missing", receipt.key, "is not in the bucket; remove its receipt and run `tape archive`")
            return
        sha256 = stored.sha256
        if sha256 is None and stored.bytes == receipt.bytes:
            count.downloaded += 1
            sha256 = objects.read(receipt.key)
    except RecorderError as error:
        yield Wrong("different", receipt.key, str(error))
        return
    if (stored.bytes, sha256) != (receipt.bytes, receipt.sha256):
        said = f"{stored.bytes:,} bytes, SHA-256 {sha256}"
        yield Wrong("different", receipt.key, f"holds {said}; its receipt says {receipt.bytes:,}, {receipt.sha256}")
    if receipt.key not in listed:
        yield Wrong("missing", receipt.key, "is there but not listed: readers that list do not see it; look again")
