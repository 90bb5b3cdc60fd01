"""Every setting arrives checked, in the right unit, and without revealing a secret."""

import os
import re
import traceback
from pathlib import Path

import pytest

from flows.settings import Settings, load_settings, setting_names
from tasks.errors import SettingsError

EXAMPLE = Path(__file__).parents[2] / ".env.example"
# Examples that are cut short, or name a file.
SHOWN_IN_PART = {
    "FINNHUB_API_KEY", "TAPE_S3_ACCESS_KEY_ID", "TAPE_S3_SECRET_ACCESS_KEY", "TAPE_S3_SESSION_TOKEN",
    "TAPE_S3_CA_BUNDLE",
}  # fmt: skip
MINUTE_NS = 60_000_000_000


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without our variables, in a folder without `.env`."""
    for name in list(os.environ):
        if name.upper().startswith(("TAPE_", "FINNHUB_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def refusal(**overrides: object) -> str:
    """The message with which these settings are refused."""
    with pytest.raises(SettingsError) as caught:
        load_settings(**overrides)
    return str(caught.value)


def test_defaults_are_in_inner_units(tmp_path: Path) -> None:
    """With nothing set, durations are ns, amounts bytes, the data folder absolute and nothing is uploaded."""
    settings = load_settings()
    assert (settings.batch_for_ns, settings.batch_bytes) == (5 * MINUTE_NS, 64 << 20)
    assert (settings.max_event_age_ns, settings.lanes, settings.symbols) == (24 * 60 * MINUTE_NS, 1, ())
    assert settings.data_dir == tmp_path / "data"
    assert settings.s3_bucket is None
    assert settings.finnhub_api_key is None


def test_override_before_environment_before_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An argument goes before the environment, that before `.env`; what is None or empty hides nothing."""
    (tmp_path / ".env").write_text("TAPE_SYMBOLS=A\nTAPE_LANES=2\nTAPE_BATCH_FOR=1m\nTAPE_CALENDAR=XLON\nOTHER=x\n")
    for name, value in {"TAPE_LANES": "3", "TAPE_BATCH_FOR": "2m", "TAPE_CALENDAR": ""}.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(batch_for="3m", lanes=None, symbols=(), calendar="")
    assert (settings.symbols, settings.lanes, settings.batch_for_ns) == (("A",), 3, 3 * MINUTE_NS)
    assert settings.calendar == "XLON"


@pytest.mark.parametrize(
    "text", ["AAPL,MSFT,IC MARKETS:1", " AAPL ,MSFT, IC MARKETS:1,AAPL ", "AAPL\nMSFT\r\nIC MARKETS:1"]
)
def test_symbols_are_a_list(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Symbols are separated by commas or line ends, and each is kept once, in the order given."""
    monkeypatch.setenv("TAPE_SYMBOLS", text)
    assert load_settings().symbols == load_settings(symbols=text).symbols == ("AAPL", "MSFT", "IC MARKETS:1")


def test_a_list_that_spaces_separate_is_refused_with_the_way_to_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 0.1 took spaces in TAPE_SYMBOLS; such a list would now be one symbol that never trades."""
    monkeypatch.setenv("TAPE_SYMBOLS", "AAPL MSFT")
    assert "separate symbols with commas" in refusal()
    assert "TAPE_SYMBOLS=AAPL,MSFT" in refusal()


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ({"lanes": "ticker"}, "lanes", "ticker"),
        ({"lanes": 8}, "lanes", 8),
        ({"max_event_age": "off"}, "max_event_age_ns", None),
        ({"keep_batches_for": "7d"}, "keep_batches_for_ns", 7 * 24 * 60 * MINUTE_NS),
        ({"keep_local_for": "Forever"}, "keep_local_for_ns", None),
        ({"keep_free": "50GiB"}, "keep_free_bytes", 50 << 30),
        ({"keep_free": "off"}, "keep_free_bytes", None),
        ({"max_event_ahead": "10s"}, "max_event_ahead_ns", 10_000_000_000),
        ({"batch_bytes": "1.5MB"}, "batch_bytes", 1_500_000),
        ({"batch_bytes": 70_000}, "batch_bytes", 70_000),
        ({"disk_reserve": "2g"}, "disk_reserve_bytes", 2_000_000_000),
        ({"feed_url": "ws://127.0.0.1:8765"}, "feed_url", "ws://127.0.0.1:8765"),
        ({"feed_url": "WS://LocalHost:8765"}, "feed_url", "ws://localhost:8765"),
        ({"feed_url": "Wss://WS.Finnhub.io/Path"}, "feed_url", "wss://ws.finnhub.io/Path"),
        ({"feed_url": "wss://ws.finnhub.io."}, "feed_url", "wss://ws.finnhub.io"),
        ({"feed_url": "wss://ws.finnhub.io:"}, "feed_url", "wss://ws.finnhub.io"),
        ({"feed_url": "ws://[::1]:8765"}, "feed_url", "ws://[::1]:8765"),
        ({"feed_url": "wss://börse.example"}, "feed_url", "wss://xn--brse-5qa.example"),
        ({"s3_endpoint_url": "HTTP://MinIO:9000"}, "s3_endpoint_url", "http://minio:9000"),
        ({"s3_endpoint_url": "https://minio.example.com./"}, "s3_endpoint_url", "https://minio.example.com/"),
        ({"symbols": ["A", "B"]}, "symbols", ("A", "B")),
        ({"s3_prefix": "tape/trades"}, "s3_prefix", "tape/trades"),
        ({"s3_bucket": "market-tape"}, "s3_bucket", "market-tape"),
    ],
)
def test_reads_what_people_write(override: dict[str, object], field: str, value: object) -> None:
    """Settings are taken in the forms that people write them in."""
    assert getattr(load_settings(**override), field) == value


@pytest.mark.parametrize(
    "override",
    [
        {"symbols": "AA'PL"},
        {"symbols": "A" * 65},
        {"feed_url": "https://ws.finnhub.io"},
        {"feed_url": "wss://"},
        {"feed_url": "wss://host:port"},
        {"feed_url": "wss://host:99999"},
        {"feed_url": "wss://host:0"},
        {"feed_url": "wss://user@"},
        {"feed_url": "wss:ws.finnhub.io"},
        {"feed_url": "ws.finnhub.io"},
        {"feed_url": "wss://."},
        {"feed_url": "wss://a..b"},
        {"feed_url": "wss://a,b"},
        {"feed_url": "wss://[::1"},
        {"feed_url": "wss://[::g]"},
        {"feed_url": "wss://[host]"},
        {"feed_url": "wss://ws finnhub.io"},
        {"feed_url": "wss://ws.finn\thub.io"},
        {"feed_url": "wss://ws.finnhub.io/ä"},
        {"feed_url": f"wss://{'a' * 64}.io"},
        {"s3_endpoint_url": "ftp://minio:9000"},
        {"batch_for": "5x"},
        {"batch_for": "0s"},
        {"batch_bytes": "64 pounds"},
        {"batch_bytes": "1"},
        {"lanes": "0"},
        {"lanes": "many"},
        {"queue_bytes": "-1"},
        {"max_event_age": "never"},
        {"keep_batches_for": "off"},
        {"keep_local_for": "soon"},
        {"keep_free": "0"},
        {"keep_free": "forever"},
        {"calendar": "../XNYS"},
        {"open_before": "13h"},
        {"s3_bucket": "s3://bucket"},
        {"s3_prefix": "a/../b"},
        {"s3_endpoint_url": "minio:9000"},
        {"s3_addressing": "vhost"},
        {"s3_ca_bundle": "absent.pem"},
        {"upload_retries": "-1"},
        {"s3_access_key_id": "AKIA"},
        {"s3_secret_access_key": "hidden"},
        {"s3_session_token": "hidden"},
        {"s3_access_key_id": "A", "s3_secret_access_key": "B", "s3_profile": "C"},
    ],
)
def test_refuses_wrong_values_in_one_line(override: dict[str, object]) -> None:
    """A wrong value is refused in one line that starts with the setting's name."""
    message = refusal(**override)
    assert "\n" not in message
    assert message.split(":")[0] in setting_names()


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One error has a line for each wrong setting, with an example, whichever place it came from."""
    (tmp_path / ".env").write_text("TAPE_BATCH_FOR=soon\nTAPE_LANE=4\n")
    monkeypatch.setenv("TAPE_BATCH_BYTES", "big")
    monkeypatch.setenv("TAPE_SIMBOLS", "AAPL")
    lines = refusal(lanes="x").splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "TAPE_SIMBOLS", "TAPE_LANE", "TAPE_BATCH_FOR", "TAPE_BATCH_BYTES", "TAPE_LANES",
    ]  # fmt: skip
    assert lines[0].endswith("in the environment, is not a setting; did you mean TAPE_SYMBOLS?")
    assert lines[1].endswith("in .env, is not a setting; did you mean TAPE_LANES?")
    assert lines[2].endswith("for example TAPE_BATCH_FOR=5m")


@pytest.mark.parametrize(
    "override",
    [
        {"finnhub_api_key": "PRIVATE and more"},
        {"finnhub_api_key": "PRIVATE", "lanes": "x"},
        {"finnhub_api_key": "PRIVATE", "s3_secret_access_key": "PRIVATE2"},
        {"feed_url": "wss://ws.finnhub.io?token=PRIVATE"},
        {"feed_url": "wss://PRIVATE@ws.finnhub.io"},
        {"feed_url": "wss://user:PRIVATE@ws.finnhub.io"},
        {"feed_url": "wss://ws.finnhub.io/token=PRIVATE"},
        {"feed_url": "wss://ws.finnhub.io/#PRIVATE"},
        {"feed_url": "PRIVATE"},
        {"feed_url": "wss://[PRIVATE"},
        {"s3_endpoint_url": "https://PRIVATE:b@minio"},
        {"s3_access_key_id": "A", "s3_secret_access_key": "PRIVATE KEY"},
        {"s3_access_key_id": "PRIVATE KEY", "s3_secret_access_key": "A"},
    ],
)
def test_no_refusal_shows_a_secret(override: dict[str, object]) -> None:
    """Neither the error nor its traceback holds a secret's value, wherever the secret was put."""
    with pytest.raises(SettingsError) as caught:
        load_settings(**override)
    assert "PRIVATE" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


def test_settings_hide_their_secrets() -> None:
    """Settings that are printed show no secret."""
    settings = load_settings(finnhub_api_key="PRIVATE", s3_access_key_id="ID", s3_secret_access_key="PRIVATE")
    assert "PRIVATE" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert settings.finnhub_api_key is not None
    assert settings.finnhub_api_key.get_secret_value() == "PRIVATE"


def test_an_override_that_is_no_setting_is_a_bug() -> None:
    """A misspelled setting raises the same error as any wrong keyword argument."""
    with pytest.raises(TypeError, match="symbls"):
        load_settings(symbls="A")


def test_the_example_file_and_the_settings_agree(tmp_path: Path) -> None:
    """`.env.example` holds every setting, in order, under its description, and changes nothing when copied."""
    text = EXAMPLE.read_text()
    assert re.findall(r"^([A-Z0-9_]+)=", text, re.MULTILINE) == list(setting_names())
    blocks = {block.splitlines()[-1].split("=")[0]: block for block in text.split("\n\n")}
    for name, field in setting_names().items():
        told = " ".join(line.removeprefix("# ") for line in blocks[name].splitlines() if line.startswith("# "))
        assert told.split(" For example: ")[0] == Settings.model_fields[field].description
    bare = load_settings()
    (tmp_path / ".env").write_text(text)
    assert load_settings() == bare


@pytest.mark.parametrize("name", sorted(setting_names().keys() - SHOWN_IN_PART))
def test_every_example_is_accepted(name: str, tmp_path: Path) -> None:
    """What an error or `.env.example` shows as an example would itself be taken."""
    example = Settings.model_fields[setting_names()[name]].examples
    assert example
    load_settings(**{name.removeprefix("TAPE_").lower(): example[0]})
