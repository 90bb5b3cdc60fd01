"""How are objects written to, read back from and compared at an S3 store, and which of its errors mend themselves?

The only door to boto3. Everything it raises is a TransientError or a TerminalError; messages hold the store's
error codes and our own words, never what the store wrote, which could repeat a credential.
"""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore import exceptions as aws
from botocore.config import Config

from tasks.errors import TerminalError, TransientError
from tasks.upload.bucket import Bucket, reveal

_TRANSIENT_CODES = {
    "SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "InternalError", "ServiceUnavailable", "OperationAborted",
    "ConditionalRequestConflict", "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch",
    "IncompleteBody", "Throttling", "ThrottlingException", "TooManyRequests", "Busy",
}  # fmt: skip
_REGION = "the bucket lies in another region: set TAPE_S3_REGION to it"
_KEY = "check TAPE_S3_ACCESS_KEY_ID and TAPE_S3_SECRET_ACCESS_KEY"
_NEXT_STEP = {
    "NoSuchBucket": "the bucket does not exist: create it or correct TAPE_S3_BUCKET",
    "AccessDenied": "access is denied: grant these credentials s3:PutObject and s3:GetObject under the prefix",
    "InvalidAccessKeyId": f"the store does not know the access key: {_KEY}",
    "SignatureDoesNotMatch": f"the secret does not fit the access key: {_KEY}",
    "ExpiredToken": "the credentials have expired: get new ones (TAPE_S3_SESSION_TOKEN, TAPE_S3_PROFILE)",
    "InvalidToken": "the session token is not valid: get new credentials (TAPE_S3_SESSION_TOKEN)",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "InvalidStorageClass": "the store has no such storage class: correct TAPE_S3_STORAGE_CLASS",
    "InvalidEncryptionAlgorithmError": "the store cannot encrypt so: correct TAPE_S3_SSE",
    "EntityTooLarge": "the file is larger than one put may be: record smaller batches",
}
_BLOCK_BYTES = 1 << 20


class NoConditionalPut(TerminalError):
    """The store answers that it cannot put an object only where there is none."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as the store describes it. `sha256` is hex, None where the store gives none of the whole object."""

    bytes: int
    sha256: str | None
    etag: str
    version: str | None


class ObjectStore:
    """One bucket, opened. Raises TerminalError where the credentials or the address cannot be used at all."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        with _classed(bucket, "opening it"):
            self._client = _client(bucket)

    def find(self, key: str) -> Stored | None:
        """The object under that key, None where there is none."""
        try:
            with _classed(self.bucket, f"looking for {key}"):
                head = self._client.head_object(Bucket=self.bucket.name, Key=key, ChecksumMode="ENABLED")
        except TerminalError as error:
            if _status(error.__cause__) == 404:
                return None
            raise
        return Stored(head["ContentLength"], _hex(head), head.get("ETag", "").strip('"'), head.get("VersionId"))

    def put(self, key: str, file: Path, sha256: str, *, create_only: bool) -> bool:
        """Write the file's bytes as that object; with `create_only`, False where one stands there already.

        Raises NoConditionalPut where the store refuses the condition itself.
        """
        options = {"StorageClass": self.bucket.storage_class, "ServerSideEncryption": self.bucket.sse}
        condition = {"IfNoneMatch": "*"} if create_only else {}
        try:
            with file.open("rb") as body, _classed(self.bucket, f"putting {key}"):
                self._client.put_object(
                    Bucket=self.bucket.name, Key=key, Body=body,
                    ChecksumSHA256=b64encode(bytes.fromhex(sha256)).decode(),
                    **condition, **{name: value for name, value in options.items() if value},
                )  # fmt: skip
        except TerminalError as error:
            if create_only and _status(error.__cause__) == 412:
                return False
            if create_only and _status(error.__cause__) == 501:
                raise NoConditionalPut(str(error)) from error
            raise
        return True

    def sha256_of(self, key: str) -> str:
        """The SHA-256 (hex) of the object's bytes, downloaded."""
        digest = hashlib.sha256()
        with _classed(self.bucket, f"reading {key} back"):
            body = self._client.get_object(Bucket=self.bucket.name, Key=key)["Body"]
            for block in body.iter_chunks(_BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def delete(self, key: str) -> None:
        """Remove an object; only the probe's own is ever removed."""
        with _classed(self.bucket, f"removing {key}"):
            self._client.delete_object(Bucket=self.bucket.name, Key=key)


def _client(bucket: Bucket) -> Any:
    session = boto3.session.Session(
        aws_access_key_id=bucket.access_key_id,
        aws_secret_access_key=reveal(bucket.secret_access_key),
        aws_session_token=reveal(bucket.session_token),
        profile_name=bucket.profile,
        region_name=bucket.region,
    )
    config = Config(
        # Left alone, boto3 signs for custom endpoints as of old, and adds checksums some stores refuse.
        signature_version="s3v4",
        s3={"addressing_style": bucket.addressing},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": bucket.max_attempts},
        connect_timeout=bucket.connect_timeout_s,
        read_timeout=bucket.read_timeout_s,
    )
    # Stores other than AWS take any region, but a signature needs one.
    region = session.region_name or "us-east-1"
    verify = str(bucket.ca_bundle) if bucket.ca_bundle else None
    return session.client("s3", endpoint_url=bucket.endpoint_url, region_name=region, config=config, verify=verify)


@contextmanager
def _classed(bucket: Bucket, doing: str) -> Iterator[None]:
    try:
        yield
    except aws.ClientError as error:
        raise _refusal(error, f"{bucket}: {doing}") from error
    except aws.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise TerminalError(
                f"{bucket}: {doing}: its certificate is not trusted: give its own CA's by TAPE_S3_CA_BUNDLE"
            ) from error
        raise TransientError(f"{bucket}: {doing}: TLS broke off; it is tried again") from error
    except (aws.HTTPClientError, aws.IncompleteReadError, aws.ConnectionError, aws.CredentialRetrievalError) as error:
        raise TransientError(f"{bucket}: {doing}: {type(error).__name__}: is it up? it is tried again") from error
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.ProfileNotFound) as error:
        raise TerminalError(
            f"{bucket}: {doing}: no credentials ({type(error).__name__}): {_KEY}, or TAPE_S3_PROFILE"
        ) from error
    except (aws.BotoCoreError, ValueError) as error:
        raise TerminalError(f"{bucket}: {doing}: {type(error).__name__}: check the TAPE_S3_* settings") from error


def _refusal(error: "aws.ClientError", where: str) -> TransientError | TerminalError:
    code, status = str(error.response.get("Error", {}).get("Code", "")), _status(error)
    shown = code if code.isalnum() and len(code) <= 40 else f"HTTP {status}"
    if code in _TRANSIENT_CODES or status == 429 or (status >= 500 and status not in {501, 505}):
        return TransientError(f"{where}: {shown}: the store asks for time; it is tried again")
    known = _NEXT_STEP["AccessDenied"] if status == 403 else "the store refuses it: run `tape doctor`"
    return TerminalError(f"{where}: {shown}: {_NEXT_STEP.get(code, known)}")


def _status(error: BaseException | None) -> int:
    if not isinstance(error, aws.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _hex(head: dict[str, Any]) -> str | None:
    """The SHA-256 of the whole object; one of a multipart's parts (`…-3`) is none."""
    given = head.get("ChecksumSHA256", "")
    return b64decode(given).hex() if given and "-" not in given else None
