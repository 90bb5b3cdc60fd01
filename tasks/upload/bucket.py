"""Which bucket do archived batches go to, and how is it reached?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

from tasks.errors import SettingsError
from tasks.records.manifest import Place
from tasks.records.names import BY_DAY, Keys

# What one put takes at most, by the rules of S3.
LARGEST_PUT_BYTES = 5 << 30
_SMALLEST_PART_BYTES = 5 << 20


class Secret(Protocol):
    """Text that does not show itself, such as pydantic's SecretStr."""

    def get_secret_value(self) -> str:
        """The text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket of an S3 store, and what it takes to write there.

    `prefix` is what every key starts with, without slashes at its ends. `endpoint_url` None is AWS. Without
    `access_key_id` and `profile` boto3 finds credentials by itself (environment, files, the machine's role).
    Secrets are left out of the repr, but a plain str would show in whatever else walks over fields: give a Secret.
    A file of `multipart_from_bytes` or more is sent in parts of `part_bytes`.
    `max_attempts` are the quick ones within one call; the long pauses are the orchestrator's.
    Raises SettingsError for an endpoint or a prefix that cannot be.
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
    multipart_from_bytes: int = LARGEST_PUT_BYTES
    part_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        if self.endpoint_url is not None:
            parts = urlsplit(self.endpoint_url)
            # Not repeated: the user's part may hold a secret.
            if "@" in parts.netloc or parts.query or parts.scheme not in {"http", "https"} or not parts.hostname:
                raise SettingsError("the object store's endpoint is no plain URL; give http(s)://HOST[:PORT] alone")
        if self.prefix.strip("/") != self.prefix or any(part in {"", ".", ".."} for part in self.prefix.split("/")):
            raise SettingsError(f"{self.prefix!r} is no prefix of keys; give plain words such as trades or a/trades")
        if self.prefix.endswith(BY_DAY):
            raise SettingsError(f"TAPE_S3_PREFIX: {self.prefix!r} ends as the keys of closed days do; choose another")
        if not self.part_bytes >= _SMALLEST_PART_BYTES or not 0 < self.multipart_from_bytes <= LARGEST_PUT_BYTES:
            raise SettingsError("TAPE_S3_MULTIPART_FROM: no more than 5GiB fit one put; parts have 5MiB or more")

    @property
    def place(self) -> Place:
        """The bucket as receipts name it."""
        return Place(bucket=self.name, endpoint=self.endpoint_url, prefix=self.prefix)

    @property
    def keys(self) -> Keys:
        """The keys of what goes there."""
        return Keys(self.prefix)

    def __str__(self) -> str:
        return f"bucket {self.name} at {self.endpoint_url or 'AWS'}"


def reveal(secret: Secret | str | None) -> str | None:
    """The secret itself, for the one call that needs it."""
    return secret if secret is None or isinstance(secret, str) else secret.get_secret_value()
