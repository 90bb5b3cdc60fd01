"""Connect to an S3 store, or name the variable that is wrong.

This is the only place that uses boto3, which reads some fifty variables and two files of AWS. They count where our
settings say nothing; a wrong value is reported by the variable's name, before anything is sent.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import exceptions as aws
from botocore.config import Config
from botocore.loaders import create_loader

from tasks.address import address_of
from tasks.errors import TerminalError
from tasks.proxies import proxy_for
from tasks.upload.bucket import Bucket, reveal

_NOT_SET = (None, None, None, None)
_CERTIFICATES = "TAPE_S3_CA_BUNDLE, AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE"
_WRONG = {
    "ProfileNotFound": "AWS_PROFILE or TAPE_S3_PROFILE",
    "InvalidRegionError": "TAPE_S3_REGION or AWS_DEFAULT_REGION",
    "InvalidDefaultsMode": "AWS_DEFAULTS_MODE",
    "InvalidSTSRegionalEndpointsConfigError": "AWS_STS_REGIONAL_ENDPOINTS",
    "InvalidS3UsEast1RegionalEndpointConfigError": "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT",
    "InvalidIMDSEndpointError": "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "InvalidIMDSEndpointModeError": "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
    "PartialCredentialsError": "AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY",
}


# One client for all threads, which boto3 allows: making one takes ten times the CPU of a put, and its connections
# stay open.
@lru_cache(maxsize=4)
def client_of(bucket: Bucket) -> Any:
    """Return a client for what `connection` makes of a bucket, once its credentials are found.

    Raises TerminalError (or SettingsError) if a setting, a variable or a file is wrong, and botocore's errors if the
    credentials cannot be fetched.
    """
    core = botocore.session.Session()
    with _wrong_variable_named(bucket, core):
        if bucket.access_key_id and core.profile not in (None, *core.available_profiles):
            core.session_var_map["profile"] = _NOT_SET  # With keys of our own no profile is needed.
        # Without this each client reads the S3 API description again: 80 ms of CPU.
        core.register_component("data_loader", _descriptions(core.get_config_variable("data_path")))
        session = boto3.session.Session(
            botocore_session=core,
            aws_access_key_id=bucket.access_key_id,
            aws_secret_access_key=reveal(bucket.secret_access_key),
            aws_session_token=reveal(bucket.session_token),
            profile_name=bucket.profile,
            region_name=bucket.region,
        )
        client = _client(bucket, session, _config(bucket))
        if bucket.endpoint_url is None:
            _check_endpoint(bucket, client, session)
        _check_certificates(bucket, client)
        credentials = session.get_credentials()
        if credentials is None:
            raise aws.NoCredentialsError
        credentials.get_frozen_credentials()
    return client


def connection(bucket: Bucket) -> Bucket:
    """Return a bucket with only what makes a connection, and not how its objects are named and stored."""
    return replace(bucket, prefix="any", storage_class=None, sse=None)


@lru_cache(maxsize=1)
def _descriptions(path: str | None) -> Any:
    return create_loader(path)


def _client(bucket: Bucket, session: Any, config: Config) -> Any:
    # Stores other than AWS take any region, but a signature needs one.
    region = session.region_name or "us-east-1"
    verify = str(bucket.ca_bundle) if bucket.ca_bundle else None
    return session.client("s3", endpoint_url=bucket.endpoint_url, region_name=region, config=config, verify=verify)


def _config(bucket: Bucket) -> Config:
    target = bucket.endpoint_url or "https://s3.amazonaws.com"
    proxy = proxy_for(address_of(target), ("http", "https"))
    return Config(
        # By default boto3 uses old signatures for custom endpoints, and adds checksums that some stores refuse.
        signature_version="s3v4",
        s3={"addressing_style": bucket.addressing},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": bucket.max_attempts},
        connect_timeout=bucket.connect_timeout_s,
        read_timeout=bucket.read_timeout_s,
        # By default it would reach this machine itself through the proxy.
        proxies={} if proxy is None else {urlsplit(target).scheme.lower(): proxy.url},
    )


@contextmanager
def _wrong_variable_named(bucket: Bucket, core: Any) -> Iterator[None]:
    """Make an error of botocore say which variable or file it comes from."""
    try:
        yield
    except (aws.NoCredentialsError, aws.CredentialRetrievalError, aws.HTTPClientError):
        raise
    except aws.ConfigParseError as error:
        file = error.kwargs["path"]
        raise TerminalError(
            f"{bucket}: {file} is no AWS configuration: correct it (AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE)"
        ) from error
    except OSError as error:
        raise TerminalError(
            f"{bucket}: {error.filename or 'a file'} cannot be read or written ({error.strerror}): correct or unset "
            "the variable that names it"
        ) from error
    except (aws.BotoCoreError, ValueError) as error:
        variable = _WRONG.get(type(error).__name__) or _mentioned(core, str(error)) or _unconvertible(core)
        raise TerminalError(
            f"{bucket}: {variable or 'an AWS_* variable'} has a value that cannot be used ({type(error).__name__}): "
            "correct or unset it"
        ) from error


def _mentioned(core: Any, text: str) -> str | None:
    """Return the variables of the options that an error of botocore names."""
    if "CA bundle" in text:
        return _CERTIFICATES
    if "Invalid endpoint" in text:
        return "TAPE_S3_ENDPOINT_URL, AWS_ENDPOINT_URL or AWS_ENDPOINT_URL_S3"
    found = [_variable(core, name) for name in core.session_var_map if name in text]
    return " or ".join(name for name in found if name) or None


def _unconvertible(core: Any) -> str | None:
    """Return the variable whose text its option does not accept, such as a word for a number."""
    for name in core.session_var_map:
        try:
            core.get_config_variable(name)
        except ValueError:
            return _variable(core, name)
    return None


def _variable(core: Any, name: str) -> str | None:
    of_option = core.session_var_map[name][1]
    return of_option if of_option is None or isinstance(of_option, str) else " or ".join(of_option)


def _check_endpoint(bucket: Bucket, client: Any, session: Any) -> None:
    """Refuse a variable that sends objects elsewhere than our settings say: receipts name the settings' endpoint."""
    of_aws = _client(bucket, session, _config(bucket).merge(Config(ignore_configured_endpoint_urls=True)))
    if client.meta.endpoint_url != of_aws.meta.endpoint_url:
        raise TerminalError(
            f"{bucket}: AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3 or the AWS configuration names another store: "
            "set TAPE_S3_ENDPOINT_URL to it, or unset it"
        )


def _check_certificates(bucket: Bucket, client: Any) -> None:
    """Check the file of certificates now: when a connection reads it, an error looks like one of the network."""
    trusted = client._endpoint.http_session._verify
    if not client.meta.endpoint_url.startswith("https") or not isinstance(trusted, str):
        return
    try:
        where = {"capath": trusted} if Path(trusted).is_dir() else {"cafile": trusted}
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(**where)
    except OSError as error:  # Includes ssl.SSLError.
        raise TerminalError(f"{bucket}: {trusted} holds no certificates: correct or unset {_CERTIFICATES}") from error
