"""Which settings are there, and what do the environment, `.env` and the caller give them?

The only reader of the environment. A setting enters here once, in the units used inside (ns, bytes), and travels
on as an argument.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, NoDecode, SettingsConfigDict

from flows import setting_types as read
from flows.env_file import check_env_file
from tasks.errors import SettingsError
from tasks.feeds.registry import DEFAULT, FEEDS, feed_named

ENV_FILE = ".env"
_PREFIX = "TAPE_"
_KEY_FORM = read.matching(r"[\x21-\x7e]{1,2000}", "a key: it holds a space, a line break or a letter that no key holds")

Symbols = Annotated[tuple[str, ...], NoDecode, BeforeValidator(read.symbols)]
Margin = Annotated[int, BeforeValidator(read.duration(at_most="12h"))]
Limit = Annotated[int | None, BeforeValidator(read.optional_duration)]
KeptFor = Annotated[int | None, BeforeValidator(read.kept_for)]
Secret = Annotated[SecretStr, BeforeValidator(lambda given: _secret(given))]
Bucket = Annotated[str, BeforeValidator(read.matching(r"[A-Za-z0-9._-]{3,63}", "a bucket's bare name"))]
_KEY_PART = r"[A-Za-z0-9_=-][A-Za-z0-9_.=-]*"
Prefix = Annotated[
    str, BeforeValidator(read.matching(f"{_KEY_PART}(/{_KEY_PART})*", "a key prefix such as trades or tape/trades"))
]
Text = Annotated[str, BeforeValidator(read.matching(r"[!-~]{1,200}", "plain text without spaces"))]


def _setting(name: str, default: Any, example: str, description: str) -> Any:
    """A field: `default` is written as a user would write it, None where the setting is unset."""
    return Field(default, validation_alias=name, description=description, examples=[example])


class Settings(BaseSettings):
    """Every setting, checked. Durations end in `_ns`, amounts of data in `_bytes`; secrets are SecretStr."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    feed: Annotated[str, BeforeValidator(read.feed)] = _setting(
        "TAPE_FEED", DEFAULT, "coinbase", f"The feed to record from: {' or '.join(FEEDS)}."
    )
    finnhub_api_key: Secret | None = _setting(
        "FINNHUB_API_KEY", None, "c0ffee…", "The key for Finnhub's websocket; it is sent to hosts of finnhub.io alone."
    )
    replay_key: Secret = _setting(
        "TAPE_REPLAY_KEY", "replay", "replay", "The key for a feed on this machine, such as that of `tape replay`."
    )
    symbols: Symbols = _setting(
        "TAPE_SYMBOLS",
        "",
        "AAPL,MSFT,BINANCE:BTCUSDT",
        "What to record where no symbol is named on the command line; separated by commas, not by spaces.",
    )
    symbols_variable: (
        Annotated[str, BeforeValidator(read.matching(r"[a-z0-9_]{1,200}", "a variable's name"))] | None
    ) = _setting(
        "TAPE_SYMBOLS_VARIABLE",
        None,
        "tape_symbols",
        "A Prefect variable (a list, or symbols separated by commas) that a session follows while it records.",
    )
    feed_url: Annotated[str, BeforeValidator(read.url("wss", "ws"))] | None = _setting(
        "TAPE_FEED_URL",
        None,
        "ws://127.0.0.1:8765",
        "The feed's websocket without a key, ws or wss: the vendor's where unset, or one on this machine.",
    )
    data_dir: Annotated[Path, BeforeValidator(read.data_folder)] = _setting(
        "TAPE_DATA_DIR", "./data", "/var/lib/tape", "The folder of everything that is recorded."
    )
    data_access: Literal["owner", "group"] = _setting(
        "TAPE_DATA_ACCESS",
        "owner",
        "group",
        "Who may read what is recorded: its owner alone, or its group.",
    )
    batch_for_ns: Annotated[int, BeforeValidator(read.duration(at_least="100ms", at_most="1d"))] = _setting(
        "TAPE_BATCH_FOR", "5m", "5m", "A journal is sealed into a batch at this age."
    )
    batch_bytes: Annotated[int, BeforeValidator(read.size(at_least=4_096))] = _setting(
        "TAPE_BATCH_BYTES", "64MiB", "64MiB", "A journal is sealed into a batch at this size."
    )
    lanes: Annotated[int | Literal["ticker"], BeforeValidator(read.lanes)] = _setting(
        "TAPE_LANES", "1", "4", "How many queues, writers and journals share the symbols; ticker gives each its own."
    )
    queue_bytes: Annotated[int, BeforeValidator(read.size(at_least=1 << 20))] = _setting(
        "TAPE_QUEUE_BYTES",
        "64MiB",
        "64MiB",
        "How much may wait between socket and journal; beyond it the reader stops and the sender is held.",
    )
    disk_reserve_bytes: Annotated[int, BeforeValidator(read.size(at_least=0))] = _setting(
        "TAPE_DISK_RESERVE", "1GiB", "1GiB", "A session ends, sealed and loudly, before less than this is free."
    )
    quarantine_bytes: Annotated[int, BeforeValidator(read.size(at_least=4_096))] = _setting(
        "TAPE_QUARANTINE_BYTES",
        "256MiB",
        "256MiB",
        "How much of what is no trade a session keeps as received; what comes beyond it is counted.",
    )
    max_event_age_ns: Limit = _setting(
        "TAPE_MAX_EVENT_AGE",
        "1d",
        "1d",
        "A trade whose event time lies further before its receipt goes to quarantine; off to accept any.",
    )
    max_event_ahead_ns: Limit = _setting(
        "TAPE_MAX_EVENT_AHEAD",
        "1m",
        "1m",
        "A trade whose event time lies further after its receipt goes to quarantine; off to accept any.",
    )
    archive_format: Literal["parquet", "csv.zst", "csv.gz"] = _setting(
        "TAPE_ARCHIVE_FORMAT", "parquet", "csv.zst", "What batches are archived as: parquet, csv.zst or csv.gz."
    )
    archive_layout: Literal["plain", "max"] = _setting(
        "TAPE_ARCHIVE_LAYOUT",
        "plain",
        "max",
        "Parquet with every value as it is, or max: a sixth smaller, times and prices as steps to be added up.",
    )
    calendar: Annotated[str, BeforeValidator(read.matching(r"[A-Za-z0-9_/]{2,32}", "a calendar's name"))] = _setting(
        "TAPE_CALENDAR", "XNYS", "XNYS", "The exchange whose trading days and hours are recorded (exchange-calendars)."
    )
    open_before_ns: Margin = _setting(
        "TAPE_OPEN_BEFORE", "5m", "5h30m", "How long before the open a trading day's recording starts."
    )
    close_after_ns: Margin = _setting(
        "TAPE_CLOSE_AFTER",
        "15m",
        "4h",
        "How long after the close it goes on: the closing auction's prints come minutes late.",
    )
    min_coverage: Annotated[float, BeforeValidator(read.share)] = _setting(
        "TAPE_MIN_COVERAGE",
        "95%",
        "99%",
        "A trading day in which a symbol could be received for less than this share of market hours fails.",
    )
    keep_batches_for_ns: KeptFor = _setting(
        "TAPE_KEEP_BATCHES_FOR",
        "forever",
        "7d",
        "So long after a day was closed its batch files are removed, here and in the bucket: the day's file has them.",
    )
    keep_local_for_ns: KeptFor = _setting(
        "TAPE_KEEP_LOCAL_FOR",
        "forever",
        "90d",
        "After so long archived files and days' files are removed here, each once the bucket's copy is verified.",
    )
    keep_free_bytes: Annotated[int | None, BeforeValidator(read.optional_size(at_least=1))] = _setting(
        "TAPE_KEEP_FREE",
        "off",
        "50GiB",
        "While less than this is free the oldest that the bucket verifiably holds is removed here; off for never.",
    )
    s3_bucket: (
        Annotated[str, BeforeValidator(read.matching(r"[A-Za-z0-9._-]{3,63}", "a bucket's bare name"))] | None
    ) = _setting("TAPE_S3_BUCKET", None, "market-tape", "The bucket that archived batches go to; unset: no upload.")
    s3_prefix: Prefix = _setting("TAPE_S3_PREFIX", "trades", "trades", "What every key in the bucket starts with.")
    s3_endpoint_url: Annotated[str, BeforeValidator(read.url("https", "http"))] | None = _setting(
        "TAPE_S3_ENDPOINT_URL", None, "https://minio.example.com:9000", "The object store, where it is not AWS."
    )
    s3_region: Text | None = _setting("TAPE_S3_REGION", None, "eu-central-1", "The bucket's region.")
    s3_access_key_id: Annotated[str, BeforeValidator(_KEY_FORM)] | None = _setting(
        "TAPE_S3_ACCESS_KEY_ID", None, "AKIA…", "The access key; unset: the credentials that boto3 finds by itself."
    )
    s3_secret_access_key: Secret | None = _setting(
        "TAPE_S3_SECRET_ACCESS_KEY", None, "…", "The access key's secret; the two are set together."
    )
    s3_session_token: Secret | None = _setting(
        "TAPE_S3_SESSION_TOKEN", None, "…", "The session token of temporary credentials."
    )
    s3_profile: Text | None = _setting(
        "TAPE_S3_PROFILE", None, "tape", "A profile of the AWS configuration files, instead of an access key."
    )
    s3_addressing: Literal["auto", "path", "virtual"] = _setting(
        "TAPE_S3_ADDRESSING", "auto", "path", "How the bucket is addressed: auto, path or virtual."
    )
    s3_storage_class: Text | None = _setting(
        "TAPE_S3_STORAGE_CLASS", None, "STANDARD_IA", "The storage class of what is uploaded."
    )
    s3_sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = _setting(
        "TAPE_S3_SSE", None, "AES256", "Encryption at the store: AES256, aws:kms or aws:kms:dsse."
    )
    s3_ca_bundle: Annotated[Path, BeforeValidator(read.existing_file)] | None = _setting(
        "TAPE_S3_CA_BUNDLE", None, "/etc/ssl/own-ca.pem", "A file with the certificates of an object store's own CA."
    )
    s3_multipart_from_bytes: Annotated[int, BeforeValidator(read.size(at_least=5 << 20))] = _setting(
        "TAPE_S3_MULTIPART_FROM", "5GiB", "512MiB", "A file as large as this is sent in parts; no more than 5GiB."
    )
    upload_retries: Annotated[int, BeforeValidator(read.count(at_least=0, at_most=100))] = _setting(
        "TAPE_UPLOAD_RETRIES", "8", "8", "How often an upload is tried again, with growing pauses, before it fails."
    )

    @model_validator(mode="after")
    def _credentials_fit(self) -> "Settings":
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            missing = "TAPE_S3_ACCESS_KEY_ID" if self.s3_access_key_id is None else "TAPE_S3_SECRET_ACCESS_KEY"
            raise ValueError(f"{missing}: is unset while its other half is set; set both or neither")
        if self.s3_session_token and self.s3_access_key_id is None:
            raise ValueError("TAPE_S3_SESSION_TOKEN: needs TAPE_S3_ACCESS_KEY_ID and TAPE_S3_SECRET_ACCESS_KEY")
        if self.s3_profile and self.s3_access_key_id:
            raise ValueError("TAPE_S3_PROFILE: is set beside TAPE_S3_ACCESS_KEY_ID; keep one of the two")
        return self

    @property
    def feed_address(self) -> str:
        """The feed's websocket without a key: the one that is set, else the vendor's."""
        return self.feed_url or feed_named(self.feed).url

    def secret_named(self, name: str) -> SecretStr | None:
        """The secret of that setting, named as in the environment; None where it is not set."""
        secret: SecretStr | None = getattr(self, setting_names()[name])
        return secret


def setting_names() -> dict[str, str]:
    """The name of each setting, as the environment spells it, and its field in `Settings`."""
    return {str(field.validation_alias): name for name, field in Settings.model_fields.items()}


def surroundings() -> dict[str, str]:
    """The whole environment, for `flows/surroundings.py`, which says what of it nobody could work with."""
    return dict(os.environ)


# What of the environment a Prefect server of ours gets: no secret of ours, whatever its name.
_FOR_SERVERS = re.compile("PATH|HOME|USER|LOGNAME|TMPDIR|LANG|LC_[A-Z]+|TZ|SSL_CERT_(FILE|DIR)|PREFECT_[A-Z0-9_]+")
_NOT_FOR_SERVERS = {"PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def for_prefects_server(password: str) -> dict[str, str]:
    """The environment of a Prefect server that a command starts for itself, and that answers to this password alone."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if _FOR_SERVERS.fullmatch(name) and name not in _NOT_FOR_SERVERS
    }
    return kept | {
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_SERVER_API_AUTH_STRING": password,
    }


def reach_this_machine_without_a_proxy() -> None:
    """Have every library of this process and its children connect to loopback directly, whatever variables say."""
    for name in ("no_proxy", "NO_PROXY"):
        named = [part for part in os.environ.get(name, "").split(",") if part.strip()]
        os.environ[name] = ",".join([*named, *(host for host in _LOOPBACK if host not in named)])


_MASKS = {"owner": 0o077, "group": 0o027}
_chosen: dict[str, object] = {}


@contextmanager
def chosen(**overrides: object) -> Iterator[None]:
    """Have `load_settings` take these for overrides meanwhile, in this process: what a command line says.

    Flows have no parameters for them. Whoever can reach Prefect's API can start a deployment with any parameters, and
    must not decide where a key is sent or a file is written.
    """
    before = dict(_chosen)
    _chosen.update({name: value for name, value in overrides.items() if value is not None})
    try:
        yield
    finally:
        _chosen.clear()
        _chosen.update(before)


def load_settings(**overrides: object) -> Settings:
    """The settings: overrides, else those chosen, else the environment, else `.env` in this folder, else defaults.

    An override has the setting's name in small letters, without `TAPE_` (`batch_for="5m"`). What is None or empty
    counts as unset, wherever it stands. Raises SettingsError with one line for each setting that is wrong or unknown.
    """
    _go_to_folder()
    overrides = _chosen | {name: value for name, value in overrides.items() if value not in (None, "", (), [])}
    given = {_overridden(name): value for name, value in overrides.items()}
    check_env_file(Path(ENV_FILE))
    wrong = _unknown_names()
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        wrong += [_line(str(part["loc"][0]) if part["loc"] else "", part["msg"]) for part in error.errors()]
    if wrong:
        # Outside the handler: the validation error holds the values, and a traceback with locals would show them.
        raise SettingsError("\n".join(dict.fromkeys(wrong)))
    return settings


def settings_to_write(**overrides: object) -> Settings:
    """The settings as `load_settings` gives them, for a process that writes to the data folder.

    From here on what it and its children make is for the owner alone, or can be read by the group too.
    """
    settings = load_settings(**overrides)
    os.umask(_MASKS[settings.data_access])
    return settings


def _go_to_folder() -> None:
    """A deployment's run starts in a folder without files (deployments/prefect.yaml): go to that with the `.env`."""
    folder = os.environ.get("STOCK_TRACING_FOLDER")
    try:
        if folder:
            os.chdir(folder)
    except OSError as error:
        why = f"was deployed from, and cannot be entered ({error.strerror}); deploy again"
        raise SettingsError(f"{folder}: {why}") from error


def _secret(given: object) -> SecretStr:
    return SecretStr(_KEY_FORM(given.get_secret_value() if isinstance(given, SecretStr) else given))


def _overridden(override: str) -> str:
    name = override.upper() if override.upper() in setting_names() else _PREFIX + override.upper()
    if name not in setting_names():
        raise TypeError(f"load_settings() got {override!r}, which is no setting")
    return name


def _unknown_names() -> list[str]:
    """A line for each variable that looks like ours and is none: a slip of the pen must not pass in silence."""
    known = setting_names()
    sources = {"the environment": EnvSettingsSource(Settings), ".env": DotEnvSettingsSource(Settings)}
    lines = []
    for place, source in sources.items():
        for name in sorted(variable.upper() for variable in source.env_vars):
            if name.startswith(_PREFIX) and name not in known:
                nearest = get_close_matches(name, known, n=1, cutoff=0)[0]
                lines.append(f"{name}: in {place}, is not a setting; did you mean {nearest}?")
    return lines


def _line(name: str, message: str) -> str:
    message = message.removeprefix("Value error, ").replace("Input should", "should")
    field = setting_names().get(name)
    if field is None:
        return message
    examples = Settings.model_fields[field].examples
    return f"{name}: {message}; for example {name}={examples[0] if examples else ''}"
