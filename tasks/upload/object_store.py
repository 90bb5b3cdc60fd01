"""How are objects written to, read back from and listed at an S3 store?

Everything that boto3 raises is a TransientError or a TerminalError, as `refusals` classes them.
"""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tasks.errors import CorruptionError, TerminalError
from tasks.upload.bucket import Bucket
from tasks.upload.client import client_of, connection
from tasks.upload.s3_errors import classed, status_of

_BLOCK_BYTES = 1 << 20
# Not found, taken, not able to: what a store says of an object, not of who asks.
_ANSWERS = {404, 412, 501}


class NoConditionalPut(TerminalError):
    """The store answers that it cannot put an object only where there is none."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as the store describes it. `sha256` is hex, None where the store gives none of the whole object."""

    bytes: int
    sha256: str | None
    etag: str
    version: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a multipart as the store acknowledged it; `sha256` (base64) is what was sent with it."""

    number: int
    etag: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A multipart that was begun (UTC ns) and neither completed nor aborted: its parts are stored, and paid for."""

    key: str
    id: str
    begun_ns: int


class ObjectStore:
    """One bucket, opened. Raises TerminalError where the credentials or the address cannot be used at all."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        with classed(bucket, "opening it"):
            self._client = client_of(connection(bucket))

    def find(self, key: str) -> Stored | None:
        """The object under that key, None where there is none."""
        try:
            with self._asking(f"looking for {key}"):
                head = self._client.head_object(Bucket=self.bucket.name, Key=key, ChecksumMode="ENABLED")
        except TerminalError as error:
            if status_of(error.__cause__) == 404:
                return None
            raise
        return _described(head, head["ContentLength"])

    def put(self, key: str, file: Path, sha256: str, *, create_only: bool) -> Stored | None:
        """Write the file's bytes as that object, which the store checks by their SHA-256 (hex).

        Gives the object as the store's answer describes it; with `create_only`, None where one stands there already.
        Raises NoConditionalPut where the store refuses the condition itself.
        """
        with file.open("rb") as body, _unless_taken(create_only), self._asking(f"putting {key}"):
            put = self._client.put_object(
                Bucket=self.bucket.name, Key=key, Body=body, ChecksumSHA256=b64encode(bytes.fromhex(sha256)).decode(),
                **_condition(create_only), **self._storage(),
            )  # fmt: skip
            return _described(put, file.stat().st_size)
        return None

    def begin_parts(self, key: str) -> str:
        """Begin a multipart, whose parts are each sent with their SHA-256; gives its id."""
        with self._asking(f"beginning {key}"):
            begun = self._client.create_multipart_upload(
                Bucket=self.bucket.name, Key=key, ChecksumAlgorithm="SHA256", **self._storage()
            )
        return str(begun["UploadId"])

    def put_part(self, key: str, upload_id: str, number: int, content: bytes) -> Part:
        """Send one part (numbers from 1); its SHA-256 goes with it, and the store refuses other bytes."""
        sha256 = b64encode(hashlib.sha256(content).digest()).decode()
        with self._asking(f"putting part {number} of {key}"):
            put = self._client.upload_part(
                Bucket=self.bucket.name, Key=key, UploadId=upload_id, PartNumber=number, Body=content,
                ChecksumSHA256=sha256,
            )  # fmt: skip
        return Part(number, put["ETag"], sha256)

    def complete_parts(self, key: str, upload_id: str, parts: list[Part], *, create_only: bool) -> bool:
        """Make the parts one object; with `create_only`, False where one stands there already. Raises as `put`."""
        listed = [{"PartNumber": part.number, "ETag": part.etag, "ChecksumSHA256": part.sha256} for part in parts]
        with _unless_taken(create_only) as outcome, self._asking(f"completing {key}"):
            self._client.complete_multipart_upload(
                Bucket=self.bucket.name, Key=key, UploadId=upload_id, MultipartUpload={"Parts": listed},
                **_condition(create_only),
            )  # fmt: skip
        return outcome.written

    def abort_parts(self, key: str, upload_id: str) -> None:
        """Remove the parts of a multipart that is not completed; one that is gone already is no error."""
        try:
            with self._asking(f"aborting a multipart of {key}"):
                self._client.abort_multipart_upload(Bucket=self.bucket.name, Key=key, UploadId=upload_id)
        except TerminalError as error:
            if status_of(error.__cause__) != 404:
                raise

    def unfinished_parts(self, prefix: str) -> list[Unfinished]:
        """Every multipart under keys that start so, which was begun and not ended."""
        with self._asking(f"listing multiparts under {prefix}"):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket.name, Prefix=prefix
            )
            found = [each for page in pages for each in page.get("Uploads", [])]
        return [Unfinished(each["Key"], each["UploadId"], int(each["Initiated"].timestamp()) * 10**9) for each in found]

    def keys(self, prefix: str) -> dict[str, int]:
        """Every object under keys that start so: its bytes by its key."""
        with self._asking(f"listing {prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket.name, Prefix=prefix)
            return {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", [])}

    def read(self, key: str, into: BinaryIO | None = None, most_bytes: int | None = None) -> str:
        """Download an object, into a file where one is given; gives the SHA-256 (hex) of its bytes.

        Raises CorruptionError once more than `most_bytes` have come: what is written is bounded.
        """
        digest, came = hashlib.sha256(), 0
        with self._asking(f"reading {key} back"):
            body = self._client.get_object(Bucket=self.bucket.name, Key=key)["Body"]
            for block in body.iter_chunks(_BLOCK_BYTES):
                digest.update(block)
                came += len(block)
                if most_bytes is not None and came > most_bytes:
                    raise CorruptionError(f"{self.bucket}: {key} is larger than {most_bytes:,} bytes; nothing was kept")
                if into is not None:
                    into.write(block)
        return digest.hexdigest()

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone already is no error."""
        with self._asking(f"removing {key}"):
            self._client.delete_object(Bucket=self.bucket.name, Key=key)

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        try:
            with classed(self.bucket, doing):
                yield
        except TerminalError as error:
            if status_of(error.__cause__) not in _ANSWERS:
                # It may be the credentials: whoever opens the bucket next reads them anew.
                client_of.cache_clear()
            raise

    def _storage(self) -> dict[str, str]:
        options = {"StorageClass": self.bucket.storage_class, "ServerSideEncryption": self.bucket.sse}
        return {name: value for name, value in options.items() if value}


def _condition(create_only: bool) -> dict[str, str]:
    return {"IfNoneMatch": "*"} if create_only else {}


class _unless_taken:
    """Takes the refusal of a create-only write for an answer: `written` is False where an object stands there."""

    def __init__(self, create_only: bool) -> None:
        self._create_only, self.written = create_only, True

    def __enter__(self) -> "_unless_taken":
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not (self._create_only and isinstance(error, TerminalError)):
            return False
        if status_of(error.__cause__) == 501:
            raise NoConditionalPut(str(error)) from error
        self.written = status_of(error.__cause__) != 412
        return not self.written


def _described(answer: dict[str, Any], size: int) -> Stored:
    return Stored(size, _hex(answer), answer.get("ETag", "").strip('"'), answer.get("VersionId"))


def _hex(head: dict[str, Any]) -> str | None:
    """The SHA-256 of the whole object; one of a multipart's parts (`…-3`) is none."""
    given = head.get("ChecksumSHA256", "")
    return b64decode(given).hex() if given and "-" not in given else None
