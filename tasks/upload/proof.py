"""Does the store hold these very bytes, asked now; and how is what is held elsewhere removed from it?

Before anything is removed, here or there, its copy is proven by a question to the store, not by a receipt.
"""

from collections.abc import Iterable

from tasks.records.manifest import ObjectReceipt
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import ObjectStore


def stands(bucket: Bucket, receipt: ObjectReceipt) -> bool:
    """Whether the store holds exactly those bytes under that key: by its own SHA-256, else by a download.

    False where the object is missing or another. Raises TransientError and TerminalError where it cannot be asked.
    """
    return object_matches(ObjectStore(bucket), receipt)


def object_matches(objects: ObjectStore, receipt: ObjectReceipt) -> bool:
    """As `stands`, of a store that is open."""
    stored = objects.find(receipt.key)
    if stored is None or stored.bytes != receipt.bytes:
        return False
    return (stored.sha256 or objects.read(receipt.key)) == receipt.sha256


def remove(bucket: Bucket, keys: Iterable[str]) -> None:
    """Remove these objects; one that is gone already is no error. Raises as `stands`."""
    objects = ObjectStore(bucket)
    for key in keys:
        objects.delete(key)
