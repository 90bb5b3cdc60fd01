"""The bucket that archived batches go to, and how it is reached."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

from tasks.errors import SettingsError
from tasks.records.manifest import Place
from tasks.records.names import BY_DAY, Keys


class Secret(Protocol):
    """A text that hides itself, such as pydantic's SecretStr."""

    def get_secret_value(self) -> str:
        """Return the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket of an S3 store, and what it takes to write to it.

    Every key starts with `prefix`, which has no slash at its ends. `endpoint_url` None is AWS. Without `access_key_id`
    and `profile`, boto3 finds credentials itself (environment, files, the machine's role). Secrets are left out of the
    repr, but a plain str would show wherever else the fields are printed: use a Secret. `max_attempts` counts the quick
    attempts within one call; the orchestrator makes the long pauses.

    Raises SettingsError for an endpoint or a prefix that cannot be used.
    """

    name: str
    prefix: str = "trades"
    endpoint_url: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: Secret | str | None = field(default=None, repr=False)
    session_token: Secret | str | None = field(default=None, repr=False)
    profile: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    storage_class: str | None = None
    sse: str | None = None
    ca_bundle: Path | str | None = None
    max_attempts: int = 3
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if self.endpoint_url is not None:
            parts = urlsplit(self.endpoint_url)
            # The message does not repeat it: the part with the user may hold a secret.
            if "@" in parts.netloc or parts.query or parts.scheme not in {"http", "https"} or not parts.hostname:
                raise SettingsError("TAPE_S3_ENDPOINT_URL: is not a plain URL; set it to http(s)://HOST[:PORT] alone")
        if self.prefix.strip("/") != self.prefix or any(part in {"", ".", ".."} for part in self.prefix.split("/")):
            raise SettingsError(f"TAPE_S3_PREFIX: {self.prefix!r} is not plain words; set it to trades or a/trades")
        if self.prefix.endswith(BY_DAY):
            raise SettingsError(f"TAPE_S3_PREFIX: {self.prefix!r} ends like the keys of closed days; choose another")

    @property
    def place(self) -> Place:
        """Return the bucket as receipts name it."""
        return Place(bucket=self.name, endpoint=self.endpoint_url, prefix=self.prefix)

    @property
    def keys(self) -> Keys:
        """Return the keys of its objects."""
        return Keys(self.prefix)

    def __str__(self) -> str:
        return f"bucket {self.name} at {self.endpoint_url or 'AWS'}"


def reveal(secret: Secret | str | None) -> str | None:
    """Return the secret itself, for the one call that needs it."""
    return secret if secret is None or isinstance(secret, str) else secret.get_secret_value()
