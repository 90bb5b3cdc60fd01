"""Write, find, list, read and remove the objects of one bucket of an S3 store.

Everything that boto3 raises becomes a TransientError or a TerminalError (`s3_errors`).
"""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tasks.errors import CorruptionError, TerminalError
from tasks.records.manifest import ObjectReceipt
from tasks.upload.bucket import Bucket
from tasks.upload.client import client_of, connection
from tasks.upload.s3_errors import classified, status_of

_BLOCK_BYTES = 1 << 20
# Not found, taken, not implemented: these are about an object, not about the credentials.
_NOT_ABOUT_CREDENTIALS = {404, 412, 501}


class NoConditionalPut(TerminalError):
    """The store cannot put an object on the condition that none exists."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as the store describes it. `sha256` is hex, None if the store has none of the whole object."""

    bytes: int
    sha256: str | None
    etag: str
    version: str | None


class ObjectStore:
    """One bucket, opened. Raises TerminalError if the credentials or the address cannot be used at all."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        with classified(bucket, "opening it"):
            self._client = client_of(connection(bucket))

    def find(self, key: str) -> Stored | None:
        """Return the description of an object, None if there is none."""
        try:
            with self._request(f"looking for {key}"):
                head = self._client.head_object(Bucket=self.bucket.name, Key=key, ChecksumMode="ENABLED")
        except TerminalError as error:
            if status_of(error.__cause__) == 404:
                return None
            raise
        return _described(head, head["ContentLength"])

    def put(self, key: str, file: Path, sha256: str, *, create_only: bool) -> Stored | None:
        """Write a file as an object; the store checks its bytes by their SHA-256 (hex).

        Returns the object as the store's answer describes it; with `create_only`, None if one exists already. Raises
        NoConditionalPut if the store refuses the condition itself.
        """
        condition = {"IfNoneMatch": "*"} if create_only else {}
        try:
            with file.open("rb") as body, self._request(f"putting {key}"):
                answer = self._client.put_object(
                    Bucket=self.bucket.name, Key=key, Body=body, **condition, **self._storage(),
                    ChecksumSHA256=b64encode(bytes.fromhex(sha256)).decode(),
                )  # fmt: skip
                return _described(answer, file.stat().st_size)
        except TerminalError as error:
            status = status_of(error.__cause__)
            if create_only and status == 412:
                return None
            if create_only and status == 501:
                raise NoConditionalPut(str(error)) from error
            raise

    def keys(self, prefix: str) -> dict[str, int]:
        """Return the bytes of every object by its key, of those whose keys start so."""
        with self._request(f"listing {prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket.name, Prefix=prefix)
            return {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", [])}

    def read(self, key: str, into: BinaryIO | None = None, max_bytes: int | None = None) -> str:
        """Download an object, into a file if one is given; returns the SHA-256 (hex) of its bytes.

        Raises CorruptionError once more than `max_bytes` have come, so that what is written is bounded.
        """
        digest, came = hashlib.sha256(), 0
        with self._request(f"reading {key} back"):
            body = self._client.get_object(Bucket=self.bucket.name, Key=key)["Body"]
            for block in body.iter_chunks(_BLOCK_BYTES):
                digest.update(block)
                came += len(block)
                if max_bytes is not None and came > max_bytes:
                    raise CorruptionError(f"{self.bucket}: {key} is larger than {max_bytes:,} bytes; nothing was kept")
                if into is not None:
                    into.write(block)
        return digest.hexdigest()

    def matches(self, receipt: ObjectReceipt) -> bool:
        """Return whether the object is what the receipt says: by the store's own SHA-256, or else by a download.

        False if the object is missing or another. Raises TransientError and TerminalError if the store cannot be asked.
        """
        stored = self.find(receipt.key)
        if stored is None or stored.bytes != receipt.bytes:
            return False
        return (stored.sha256 or self.read(receipt.key)) == receipt.sha256

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone already is no error."""
        with self._request(f"removing {key}"):
            self._client.delete_object(Bucket=self.bucket.name, Key=key)

    @contextmanager
    def _request(self, doing: str) -> Iterator[None]:
        try:
            with classified(self.bucket, doing):
                yield
        except TerminalError as error:
            if status_of(error.__cause__) not in _NOT_ABOUT_CREDENTIALS:
                # The cause may be the credentials; the next client rereads them.
                client_of.cache_clear()
            raise

    def _storage(self) -> dict[str, str]:
        options = {"StorageClass": self.bucket.storage_class, "ServerSideEncryption": self.bucket.sse}
        return {name: value for name, value in options.items() if value}


def object_matches(bucket: Bucket, receipt: ObjectReceipt) -> bool:
    """Return whether the bucket has the object of that receipt now, as `ObjectStore.matches`.

    Before anything is removed, its copy is proven by this question to the store, not by a receipt.
    """
    return ObjectStore(bucket).matches(receipt)


def remove_objects(bucket: Bucket, keys: Iterable[str]) -> None:
    """Remove these objects; one that is gone already is no error. Raises as `object_matches`."""
    objects = ObjectStore(bucket)
    for key in keys:
        objects.delete(key)


def _described(answer: dict[str, Any], size: int) -> Stored:
    return Stored(size, _sha256(answer), answer.get("ETag", "").strip('"'), answer.get("VersionId"))


def _sha256(answer: dict[str, Any]) -> str | None:
    """Return the SHA-256 (hex) of the whole object; one of a multipart object's parts (`…-3`) does not count."""
    given = answer.get("ChecksumSHA256", "")
    return b64decode(given).hex() if given and "-" not in given else None
