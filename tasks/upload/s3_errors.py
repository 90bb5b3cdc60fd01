"""Sort what an S3 store answers into errors that may pass by themselves and errors that a person must fix.

Messages hold the store's error codes and our own words, never what the store wrote, which could repeat a credential.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as aws

from tasks.errors import TerminalError, TransientError
from tasks.upload.bucket import Bucket

_TRANSIENT_CODES = {
    "SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "InternalError", "ServiceUnavailable", "OperationAborted",
    "ConditionalRequestConflict", "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch",
    "IncompleteBody", "Throttling", "ThrottlingException", "TooManyRequests", "Busy",
}  # fmt: skip
_TRANSIENT_CAUSES = {
    "RequestTimeTooSkewed": "this machine's clock is not the store's: start NTP, `tape doctor` shows how far off"
}
_REGION = "the bucket is in another region: set TAPE_S3_REGION to it"
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
    "InvalidEncryptionAlgorithmError": "the store does not have this encryption: correct TAPE_S3_SSE",
    "EntityTooLarge": "the file is larger than the store takes: set a smaller TAPE_BATCH_BYTES",
}


@contextmanager
def classified(bucket: Bucket, doing: str) -> Iterator[None]:
    """Turn what is raised inside into a TransientError or a TerminalError that says where, and while doing what."""
    where = f"{bucket}: {doing}"
    try:
        yield
    except aws.ClientError as error:
        raise _refusal(error, where) from error
    except aws.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise TerminalError(
                f"{where}: its certificate is not trusted: name the file of its own CA in TAPE_S3_CA_BUNDLE"
            ) from error
        raise TransientError(f"{where}: TLS broke off; it is tried again") from error
    except aws.ProxyConnectionError as error:
        raise TransientError(
            f"{where}: its proxy cannot be reached: check http_proxy, https_proxy and all_proxy; it is tried again"
        ) from error
    except aws.CredentialRetrievalError as error:
        raise TransientError(
            f"{where}: the credentials that the AWS_* variables name cannot be fetched; it is tried again"
        ) from error
    except (aws.HTTPClientError, aws.IncompleteReadError, aws.ConnectionError) as error:
        raise TransientError(f"{where}: {type(error).__name__}: is it up? it is tried again") from error
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.ProfileNotFound) as error:
        raise TerminalError(f"{where}: no credentials ({type(error).__name__}): {_KEY}, or TAPE_S3_PROFILE") from error
    except (aws.BotoCoreError, ValueError) as error:
        raise TerminalError(f"{where}: {type(error).__name__}: check the TAPE_S3_* settings") from error


def status_of(error: BaseException | None) -> int:
    """Return the HTTP status of the store's answer, 0 if there was none."""
    if not isinstance(error, aws.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _refusal(error: aws.ClientError, where: str) -> TransientError | TerminalError:
    code, status = str(error.response.get("Error", {}).get("Code", "")), status_of(error)
    shown = code if code.isalnum() and len(code) <= 40 else f"HTTP {status}"
    if code in _TRANSIENT_CODES or status == 429 or (status >= 500 and status not in {501, 505}):
        cause = _TRANSIENT_CAUSES.get(code, "the store asks for time")
        return TransientError(f"{where}: {shown}: {cause}; it is tried again")
    default = _NEXT_STEP["AccessDenied"] if status == 403 else "the store refuses it: run `tape doctor`"
    return TerminalError(f"{where}: {shown}: {_NEXT_STEP.get(code, default)}")
