"""Every setting, read from the environment, `.env`, and the caller.

This is the only code that reads the environment. A setting is read here once, converted to internal units (ns, bytes),
and passed on as an argument.
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
_KEY_FORM = read.matching(
    r"[\x21-\x7e]{1,2000}", "a key: it contains a space, a line break, or a character that no key has"
)

Symbols = Annotated[tuple[str, ...], NoDecode, BeforeValidator(read.symbols)]
Margin = Annotated[int, BeforeValidator(read.duration(at_most="12h"))]
Limit = Annotated[int | None, BeforeValidator(read.optional_duration)]
KeptFor = Annotated[int | None, BeforeValidator(read.kept_for)]
Secret = Annotated[SecretStr, BeforeValidator(lambda given: _secret(given))]
Bucket = Annotated[str, BeforeValidator(read.matching(r"[A-Za-z0-9._-]{3,63}", "a plain bucket name"))]
_KEY_PART = r"[A-Za-z0-9_=-][A-Za-z0-9_.=-]*"
Prefix = Annotated[
    str, BeforeValidator(read.matching(f"{_KEY_PART}(/{_KEY_PART})*", "a key prefix such as trades or tape/trades"))
]
Text = Annotated[str, BeforeValidator(read.matching(r"[!-~]{1,200}", "plain text without spaces"))]


def _setting(name: str, default: Any, example: str, description: str) -> Any:
    """Define a setting; `default` is written as a user would write it, None if the setting is unset."""
    return Field(default, validation_alias=name, description=description, examples=[example])


class Settings(BaseSettings):
    """Every setting, checked. Durations end in `_ns`, sizes in `_bytes`; secrets are SecretStr."""

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
        "FINNHUB_API_KEY",
        None,
        "c0ffee…",
        "The API key for Finnhub's websocket; it is only ever sent to hosts of finnhub.io.",
    )
    replay_key: Secret = _setting(
        "TAPE_REPLAY_KEY", "replay", "replay", "The API key for a feed on this machine, such as `tape replay`."
    )
    symbols: Symbols = _setting(
        "TAPE_SYMBOLS",
        "",
        "AAPL,MSFT,BINANCE:BTCUSDT",
        "The symbols to record if the command line names none; separate them with commas, not spaces.",
    )
    symbols_variable: (
        Annotated[str, BeforeValidator(read.matching(r"[a-z0-9_]{1,200}", "the name of a variable"))] | None
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
        "The feed's websocket URL (ws or wss), without a key; if unset, the vendor's.",
    )
    data_dir: Annotated[Path, BeforeValidator(read.data_folder)] = _setting(
        "TAPE_DATA_DIR", "./data", "/var/lib/tape", "The folder that holds everything recorded."
    )
    data_access: Literal["owner", "group"] = _setting(
        "TAPE_DATA_ACCESS",
        "owner",
        "group",
        "Who may read the recordings: only their owner, or their group too.",
    )
    batch_for_ns: Annotated[int, BeforeValidator(read.duration(at_least="100ms", at_most="1d"))] = _setting(
        "TAPE_BATCH_FOR", "5m", "5m", "Seal a journal into a batch at this age."
    )
    batch_bytes: Annotated[int, BeforeValidator(read.size(at_least=4_096))] = _setting(
        "TAPE_BATCH_BYTES", "64MiB", "64MiB", "Seal a journal into a batch at this size."
    )
    lanes: Annotated[int | Literal["ticker"], BeforeValidator(read.lanes)] = _setting(
        "TAPE_LANES",
        "1",
        "4",
        "How many queues, writers, and journals share the symbols; ticker gives each symbol its own.",
    )
    queue_bytes: Annotated[int, BeforeValidator(read.size(at_least=1 << 20))] = _setting(
        "TAPE_QUEUE_BYTES",
        "64MiB",
        "64MiB",
        "How much data may wait between socket and journal; beyond that, reading stops until the writer catches up.",
    )
    disk_reserve_bytes: Annotated[int, BeforeValidator(read.size(at_least=0))] = _setting(
        "TAPE_DISK_RESERVE",
        "1GiB",
        "1GiB",
        "A session seals its data and ends with an error before free disk space falls below this.",
    )
    quarantine_bytes: Annotated[int, BeforeValidator(read.size(at_least=4_096))] = _setting(
        "TAPE_QUARANTINE_BYTES",
        "256MiB",
        "256MiB",
        "How much rejected input a session keeps as received; anything beyond that is only counted.",
    )
    max_event_age_ns: Limit = _setting(
        "TAPE_MAX_EVENT_AGE",
        "1d",
        "1d",
        "Quarantine a trade whose event time is further before its receive time than this; off accepts any.",
    )
    max_event_ahead_ns: Limit = _setting(
        "TAPE_MAX_EVENT_AHEAD",
        "1m",
        "1m",
        "Quarantine a trade whose event time is further after its receive time than this; off accepts any.",
    )
    archive_format: Literal["parquet", "csv.zst", "csv.gz"] = _setting(
        "TAPE_ARCHIVE_FORMAT", "parquet", "csv.zst", "The file format of archived batches: parquet, csv.zst, or csv.gz."
    )
    archive_layout: Literal["plain", "max"] = _setting(
        "TAPE_ARCHIVE_LAYOUT",
        "plain",
        "max",
        "plain stores every value as it is; max is a sixth smaller, with times and prices as deltas (Parquet only).",
    )
    calendar: Annotated[str, BeforeValidator(read.matching(r"[A-Za-z0-9_/]{2,32}", "the name of a calendar"))] = (
        _setting(
            "TAPE_CALENDAR",
            "XNYS",
            "XNYS",
            "The exchange whose trading days and hours are recorded, as exchange-calendars names it.",
        )
    )
    open_before_ns: Margin = _setting(
        "TAPE_OPEN_BEFORE", "5m", "5h30m", "How long before the open the recording of a trading day starts."
    )
    close_after_ns: Margin = _setting(
        "TAPE_CLOSE_AFTER",
        "15m",
        "4h",
        "How long after the close the recording continues; closing auction prints arrive minutes late.",
    )
    min_coverage: Annotated[float, BeforeValidator(read.share)] = _setting(
        "TAPE_MIN_COVERAGE",
        "95%",
        "99%",
        "A trading day fails if any symbol could be received for less than this share of market hours.",
    )
    alert_url: Annotated[SecretStr, BeforeValidator(read.alert_url)] | None = _setting(
        "TAPE_ALERT_URL",
        None,
        "https://hooks.slack.com/services/T0/B0/X0",
        "Where alarms go: Slack's webhook, any other URL (JSON by POST), or an Apprise address such as mailtos://….",
    )
    dashboard_token: Secret | None = _setting(
        "TAPE_DASHBOARD_TOKEN",
        None,
        "c0ffee00c0ffee00",
        "The token that `tape dashboard` asks for; needed if it listens on more than loopback.",
    )
    keep_batches_for_ns: KeptFor = _setting(
        "TAPE_KEEP_BATCHES_FOR",
        "forever",
        "7d",
        "Delete batch files, here and in the bucket, this long after their day closed; the day file has their rows.",
    )
    keep_local_for_ns: KeptFor = _setting(
        "TAPE_KEEP_LOCAL_FOR",
        "forever",
        "90d",
        "Delete local batch and day files at this age, each only after the bucket's copy is verified.",
    )
    keep_free_bytes: Annotated[int | None, BeforeValidator(read.optional_size(at_least=1))] = _setting(
        "TAPE_KEEP_FREE",
        "off",
        "50GiB",
        "While free disk space is below this, delete the oldest local files that the bucket verifiably has; or off.",
    )
    s3_bucket: Annotated[str, BeforeValidator(read.matching(r"[A-Za-z0-9._-]{3,63}", "a plain bucket name"))] | None = (
        _setting(
            "TAPE_S3_BUCKET",
            None,
            "market-tape",
            "The bucket to upload archived batches to; if unset, nothing is uploaded.",
        )
    )
    s3_prefix: Prefix = _setting("TAPE_S3_PREFIX", "trades", "trades", "The prefix of every key in the bucket.")
    s3_endpoint_url: Annotated[str, BeforeValidator(read.url("https", "http"))] | None = _setting(
        "TAPE_S3_ENDPOINT_URL", None, "https://minio.example.com:9000", "The URL of the object store, if it is not AWS."
    )
    s3_region: Text | None = _setting("TAPE_S3_REGION", None, "eu-central-1", "The bucket's region.")
    s3_access_key_id: Annotated[str, BeforeValidator(_KEY_FORM)] | None = _setting(
        "TAPE_S3_ACCESS_KEY_ID", None, "AKIA…", "The access key ID; if unset, boto3 looks up credentials as usual."
    )
    s3_secret_access_key: Secret | None = _setting(
        "TAPE_S3_SECRET_ACCESS_KEY", None, "…", "The secret access key; set it together with the access key ID."
    )
    s3_session_token: Secret | None = _setting(
        "TAPE_S3_SESSION_TOKEN", None, "…", "The session token of temporary credentials."
    )
    s3_profile: Text | None = _setting(
        "TAPE_S3_PROFILE", None, "tape", "A profile from the AWS configuration files, instead of an access key."
    )
    s3_addressing: Literal["auto", "path", "virtual"] = _setting(
        "TAPE_S3_ADDRESSING", "auto", "path", "How to address the bucket: auto, path, or virtual."
    )
    s3_storage_class: Text | None = _setting(
        "TAPE_S3_STORAGE_CLASS", None, "STANDARD_IA", "The storage class of uploaded objects."
    )
    s3_sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = _setting(
        "TAPE_S3_SSE", None, "AES256", "Server-side encryption: AES256, aws:kms, or aws:kms:dsse."
    )
    s3_ca_bundle: Annotated[Path, BeforeValidator(read.existing_file)] | None = _setting(
        "TAPE_S3_CA_BUNDLE", None, "/etc/ssl/own-ca.pem", "A file with the CA certificates of a private object store."
    )
    upload_retries: Annotated[int, BeforeValidator(read.count(at_least=0, at_most=100))] = _setting(
        "TAPE_UPLOAD_RETRIES", "8", "8", "How often to retry an upload, with growing delays, before it fails."
    )

    @model_validator(mode="after")
    def _credentials_fit(self) -> "Settings":
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            missing = "TAPE_S3_ACCESS_KEY_ID" if self.s3_access_key_id is None else "TAPE_S3_SECRET_ACCESS_KEY"
            raise ValueError(f"{missing}: is not set, but its counterpart is; set both or neither")
        if self.s3_session_token and self.s3_access_key_id is None:
            raise ValueError("TAPE_S3_SESSION_TOKEN: needs TAPE_S3_ACCESS_KEY_ID and TAPE_S3_SECRET_ACCESS_KEY")
        if self.s3_profile and self.s3_access_key_id:
            raise ValueError("TAPE_S3_PROFILE: is set together with TAPE_S3_ACCESS_KEY_ID; keep only one of them")
        return self

    @property
    def feed_address(self) -> str:
        """The feed's websocket URL without a key: the configured one, or the vendor's."""
        return self.feed_url or feed_named(self.feed).url

    def secret_named(self, name: str) -> SecretStr | None:
        """Return the secret of a setting, named as in the environment, or None if it is not set."""
        secret: SecretStr | None = getattr(self, setting_names()[name])
        return secret


def setting_names() -> dict[str, str]:
    """Return the name of each setting in the environment, with its field in `Settings`."""
    return {str(field.validation_alias): name for name, field in Settings.model_fields.items()}


def surroundings() -> dict[str, str]:
    """Return the whole environment for `flows/surroundings.py`, which checks it for unusable values."""
    return dict(os.environ)


# What our own Prefect server gets of the environment: none of our secrets, whatever their names.
_FOR_SERVERS = re.compile("PATH|HOME|USER|LOGNAME|TMPDIR|LANG|LC_[A-Z]+|TZ|SSL_CERT_(FILE|DIR)|PREFECT_[A-Z0-9_]+")
_NOT_FOR_SERVERS = {"PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def for_prefects_server(password: str) -> dict[str, str]:
    """Return the environment of a Prefect server that a command starts, which accepts only this password."""
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
    """Make every library in this process and its children connect to loopback without a proxy."""
    for name in ("no_proxy", "NO_PROXY"):
        named = [part for part in os.environ.get(name, "").split(",") if part.strip()]
        os.environ[name] = ",".join([*named, *(host for host in _LOOPBACK if host not in named)])


_MASKS = {"owner": 0o077, "group": 0o027}
_chosen: dict[str, object] = {}


@contextmanager
def chosen(**overrides: object) -> Iterator[None]:
    """Use these values from the command line as overrides for `load_settings` in this block and process.

    Flows have no parameters for them: anyone who can reach Prefect's API can start a deployment with any parameters,
    and must not decide where a key is sent or a file is written.
    """
    before = dict(_chosen)
    _chosen.update({name: value for name, value in overrides.items() if value is not None})
    try:
        yield
    finally:
        _chosen.clear()
        _chosen.update(before)


def load_settings(**overrides: object) -> Settings:
    """Load settings from, in order of precedence: overrides, `chosen`, the environment, `.env`, and the defaults.

    An override has the setting's name in lower case, without `TAPE_` (`batch_for="5m"`). None and empty values count as
    unset everywhere. Raises SettingsError with one line for each setting that is wrong or unknown.
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
        # Outside the handler: the validation error contains the values, and a traceback with locals would show them.
        raise SettingsError("\n".join(dict.fromkeys(wrong)))
    return settings


def settings_to_write(**overrides: object) -> Settings:
    """Load settings as `load_settings` does, for a process that writes to the data folder.

    Files that it and its children create from now on are for the owner only, or readable by the group too.
    """
    settings = load_settings(**overrides)
    os.umask(_MASKS[settings.data_access])
    return settings


@contextmanager
def writing_as(settings: Settings) -> Iterator[None]:
    """Give files that this block creates the access of `settings_to_write`, for a process that is not ours."""
    before = os.umask(_MASKS[settings.data_access])
    try:
        yield
    finally:
        os.umask(before)


def _go_to_folder() -> None:
    """Go to the folder with the `.env`: a deployment's run starts in one without files (deployments/prefect.yaml)."""
    folder = os.environ.get("STOCK_TRACING_FOLDER")
    try:
        if folder:
            os.chdir(folder)
    except OSError as error:
        why = f"is where this was deployed from, and cannot be entered ({error.strerror}); deploy again"
        raise SettingsError(f"{folder}: {why}") from error


def _secret(given: object) -> SecretStr:
    return SecretStr(_KEY_FORM(given.get_secret_value() if isinstance(given, SecretStr) else given))


def _overridden(override: str) -> str:
    name = override.upper() if override.upper() in setting_names() else _PREFIX + override.upper()
    if name not in setting_names():
        raise TypeError(f"load_settings() got {override!r}, which is no setting")
    return name


def _unknown_names() -> list[str]:
    """Return a line for each variable that looks like ours but is unknown: a typo must not be ignored."""
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
