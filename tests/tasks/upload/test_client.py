"""Whatever boto3's variables say, the configured bucket is reached, or the error names the cause."""

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from connect_proxy import proxying

from tasks.errors import SettingsError, TerminalError, TransientError
from tasks.upload.bucket import Bucket
from tasks.upload.client import client_of
from tasks.upload.object_store import ObjectStore

SECRET = "a-proxy-password"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.fixture(autouse=True)
def no_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove the developer's AWS variables and files, and any cached client."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    client_of.cache_clear()
    yield
    client_of.cache_clear()


@pytest.fixture
def dead() -> Iterator[str]:
    """A loopback address on which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def own(dead: str) -> Bucket:
    """A bucket with its own keys at an absent store, so that errors must come before any request."""
    return Bucket(
        name="market-tape", endpoint_url=f"https://{dead}", access_key_id="id", secret_access_key="secret",
        max_attempts=1, connect_timeout_s=2.0,
    )  # fmt: skip


@pytest.fixture
def file_of(tmp_path: Path) -> Callable[[str], str]:
    """Makes a file with this content and returns its path."""

    def make(content: str) -> str:
        path = tmp_path / "a-file"
        path.write_text(content)
        return str(path)

    return make


@pytest.mark.parametrize(
    "variables",
    [
        {"http_proxy": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1"},
        {"ALL_PROXY": "socks5://127.0.0.1:1"},
        {"AWS_PROFILE": "missing", "AWS_CONFIG_FILE": "/nowhere", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere"},
        {"AWS_DEFAULT_PROFILE": "missing", "HOME": "/nowhere"},
        {"AWS_MAX_ATTEMPTS": "many", "AWS_RETRY_MODE": "nonsense", "AWS_SESSION_TOKEN": "another", "AWS_REGION": "e u"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_S3": "nonsense"},
        {"AWS_CA_BUNDLE": "/nowhere", "REQUESTS_CA_BUNDLE": "/nowhere", "SSL_CERT_FILE": "/nowhere"},
        {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true", "AWS_METADATA_SERVICE_TIMEOUT": "x"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_a_bucket_on_this_machine_with_keys_of_its_own_is_reached(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """Our settings override variables for proxies, profiles, endpoints, and retries."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ObjectStore(bucket).find("nothing") is None


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("AWS_DEFAULT_REGION", "eu west", "TAPE_S3_REGION or AWS_DEFAULT_REGION"),
        ("AWS_DEFAULTS_MODE", "nonsense", "AWS_DEFAULTS_MODE"),
        ("AWS_STS_REGIONAL_ENDPOINTS", "nonsense", "AWS_STS_REGIONAL_ENDPOINTS"),
        ("AWS_S3_US_EAST_1_REGIONAL_ENDPOINT", "nonsense", "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT"),
        ("AWS_REQUEST_MIN_COMPRESSION_SIZE_BYTES", "much", "AWS_REQUEST_MIN_COMPRESSION_SIZE_BYTES"),
        ("AWS_ACCOUNT_ID_ENDPOINT_MODE", "nonsense", "AWS_ACCOUNT_ID_ENDPOINT_MODE"),
        ("AWS_S3_DISABLE_EXPRESS_SESSION_AUTH", "nonsense", "AWS_S3_DISABLE_EXPRESS_SESSION_AUTH"),
        ("AWS_CA_BUNDLE", "", "TAPE_S3_CA_BUNDLE, AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE has a value"),
        ("REQUESTS_CA_BUNDLE", "", "TAPE_S3_CA_BUNDLE, AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE has a value"),
        ("AWS_CA_BUNDLE", "/nowhere", "/nowhere holds no certificates: correct or unset TAPE_S3_CA_BUNDLE, AWS_CA_"),
        ("REQUESTS_CA_BUNDLE", "/nowhere", "/nowhere holds no certificates: correct or unset TAPE_S3_CA_BUNDLE, AWS_"),
        ("SSLKEYLOGFILE", "/nowhere/keys", "/nowhere/keys cannot be read or written (No such file or directory)"),
    ],
)
def test_a_value_that_cannot_be_used_is_told_by_its_variable(
    own: Bucket, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    """A value that boto3 rejects gives one line that names the variable or file, before any request."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(TerminalError) as refused:
        ObjectStore(own)
    assert f": {told}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_number_that_is_none_is_told_by_its_variable(own: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is not a number is named, although Python's error does not name it."""
    monkeypatch.setenv("AWS_CSM_ENABLED", "true")
    monkeypatch.setenv("AWS_CSM_PORT", "many")
    with pytest.raises(TerminalError, match=": AWS_CSM_PORT has a value that cannot be used"):
        ObjectStore(own)


@pytest.mark.parametrize("variable", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"])
def test_a_configuration_that_cannot_be_read_is_told_by_its_path(
    own: Bucket, monkeypatch: pytest.MonkeyPatch, file_of: Callable[[str], str], variable: str
) -> None:
    """The error for an invalid AWS file has its path and the variables that can name another."""
    path = file_of("[[not an ini file\n")
    monkeypatch.setenv(variable, path)
    with pytest.raises(TerminalError, match=f"{path} is no AWS configuration: correct it \\(AWS_CONFIG_FILE, "):
        ObjectStore(own)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"AWS_PROFILE": "missing"}, "AWS_PROFILE or TAPE_S3_PROFILE has a value that cannot be used"),
        ({"AWS_ACCESS_KEY_ID": "id"}, "AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY has a value that cannot be used"),
        ({"AWS_METADATA_SERVICE_TIMEOUT": "x"}, "AWS_METADATA_SERVICE_TIMEOUT has a value that cannot be used"),
        ({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "x"}, "AWS_EC2_METADATA_SERVICE_ENDPOINT has a value that cannot"),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere", "AWS_ROLE_ARN": "arn"}, "/nowhere cannot be read or written"),
        ({"AWS_EC2_METADATA_DISABLED": "true"}, "no credentials"),
    ],
)
def test_credentials_that_cannot_be_had_are_told_before_anything_is_sent(
    own: Bucket, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str
) -> None:
    """Without keys in our settings, those of the environment are resolved at once, and errors reported."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TerminalError, match=told):
        ObjectStore(replace(own, access_key_id=None, secret_access_key=None))


def test_credentials_that_are_fetched_from_somebody_who_is_away_are_tried_again(
    own: Bucket, monkeypatch: pytest.MonkeyPatch, dead: str
) -> None:
    """The message says that it is not the store that does not answer."""
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://{dead}/")
    with pytest.raises(TransientError, match="the credentials that the AWS_\\* variables name cannot be fetched"):
        ObjectStore(replace(own, access_key_id=None, secret_access_key=None))


def test_no_variable_sends_objects_elsewhere_than_the_receipts_say(
    own: Bucket, monkeypatch: pytest.MonkeyPatch, file_of: Callable[[str], str], dead: str
) -> None:
    """If our settings mean AWS, a variable or file with another endpoint is an error."""
    at_aws = replace(own, endpoint_url=None, region="eu-central-1")
    assert ObjectStore(at_aws)._client.meta.endpoint_url == "https://s3.eu-central-1.amazonaws.com"
    client_of.cache_clear()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{dead}"),
        ("AWS_ENDPOINT_URL_S3", f"http://{dead}"),
        ("AWS_CONFIG_FILE", file_of(f"[default]\nendpoint_url = http://{dead}\n")),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(TerminalError, match="names another store: set TAPE_S3_ENDPOINT_URL to it"):
                ObjectStore(at_aws)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(TerminalError, match="AWS_ENDPOINT_URL or AWS_ENDPOINT_URL_S3 has a value that cannot be used"):
        ObjectStore(at_aws)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "All_Proxy"])
def test_a_bucket_elsewhere_is_reached_by_the_same_proxy_as_the_feed(
    own: Bucket, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Requests go through the proxy; if it is unreachable, the error names the variables."""
    elsewhere = replace(own, endpoint_url="http://store.invalid:9", addressing="path")
    with proxying(("127.0.0.1", 1), NOT_FOUND) as proxy:
        monkeypatch.setenv(variable, f"http://user:{SECRET}@127.0.0.1:{proxy.port}")
        assert ObjectStore(elsewhere).find("a-key") is None
    assert proxy.asked[0][0].split("?")[0] == "HEAD http://store.invalid:9/market-tape/a-key HTTP/1.1"
    with pytest.raises(TransientError, match="its proxy cannot be reached: check http_proxy, ") as away:
        ObjectStore(elsewhere).find("a-key")
    assert SECRET not in str(away.value)


def test_a_proxy_of_another_kind_is_told_by_its_variable(own: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SOCKS proxy is rejected, because boto3 would treat it as HTTP and retry."""
    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:1")
    with pytest.raises(SettingsError, match="all_proxy: names a proxy of another kind than http:// or https://"):
        ObjectStore(replace(own, endpoint_url="https://store.invalid"))
