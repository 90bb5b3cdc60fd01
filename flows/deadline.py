"""Checks whether a session can begin, and computes its end, before anything starts and without Prefect."""

import datetime as dt

from pydantic import SecretStr

from flows.settings import Settings
from tasks.address import address_of
from tasks.duration import duration_ns
from tasks.errors import SettingsError
from tasks.feeds.registry import feed_named
from tasks.market.hours import exchange_zone
from tasks.records.trade import NS_PER_S

_EXAMPLE = "2026-11-24T16:00:00-05:00"


def deadline_for(settings: Settings, record_for: str | None, until: str | None, now_ns: int) -> int:
    """Return when (UTC ns) a session that begins now must end. Raises SettingsError if it cannot begin."""
    key_of(settings)
    if not settings.symbols:
        raise SettingsError("symbols: none given; name at least one, such as AAPL, or set TAPE_SYMBOLS")
    if (record_for is None) == (until is None):
        raise SettingsError("give either a duration (--for 5m) or an end time (--until 16:00)")
    deadline_ns = now_ns + duration_ns(record_for) if record_for is not None else _time_ns(until or "", now_ns)
    if deadline_ns <= now_ns:
        raise SettingsError("the session would end before it begins; give a later end time")
    exchange_zone(settings.calendar)  # Last, because loading calendars takes a second.
    return deadline_ns


def key_of(settings: Settings) -> SecretStr:
    """Return the key for the feed: the vendor's only for its own hosts, TAPE_REPLAY_KEY for loopback.

    Raises SettingsError if there is no key, or if the feed is neither.
    """
    target, hosts = address_of(settings.feed_address), feed_named(settings.feed).hosts
    if target.is_loopback:
        return settings.replay_key
    if not any(target.host == host or target.host.endswith(f".{host}") for host in hosts):
        raise SettingsError(
            f"TAPE_FEED_URL: {target.host} is not a host of {' or '.join(hosts)}, so its key is not sent there; to use "
            "a relay, forward a port of this machine to it and set its key as TAPE_REPLAY_KEY"
        )
    name = key_setting(settings)
    if name is None:
        return SecretStr("")
    key = settings.secret_named(name)
    if key is None:
        raise SettingsError(f"{name}: is not set; get a key at {hosts[0]} and put it in .env")
    return key


def key_setting(settings: Settings) -> str | None:
    """Return the name of the setting that holds the feed's key, or None if the feed is public."""
    is_here = address_of(settings.feed_address).is_loopback
    return "TAPE_REPLAY_KEY" if is_here else feed_named(settings.feed).key_setting


def _time_ns(text: str, now_ns: int) -> int:
    """Return when (UTC ns) this machine's clock next shows HH:MM[:SS], or the time in ISO 8601 with an offset."""
    try:
        moment = dt.datetime.fromisoformat(text) if "T" in text else _next(dt.time.fromisoformat(text), now_ns)
    except ValueError as error:
        raise SettingsError(f"until: {text[:40]!r} is not a time; write 16:00, 16:00:30, or {_EXAMPLE}") from error
    if moment.tzinfo is None:
        raise SettingsError(f"until: {text} has no UTC offset; write {_EXAMPLE}")
    return int(moment.timestamp() * 1_000_000) * 1_000


def _next(clock: dt.time, now_ns: int) -> dt.datetime:
    now = dt.datetime.fromtimestamp(now_ns / NS_PER_S).astimezone()
    days = (now.date() + dt.timedelta(days=n) for n in range(3))  # If it has its own offset, it can be the third day.
    return next(moment for day in days for moment in _shown(clock, day) if moment > now)


def _shown(clock: dt.time, day: dt.date) -> list[dt.datetime]:
    """Return when clocks show that time on that day: twice if they go back; if they skip it, the later reading."""
    both = sorted(dt.datetime.combine(day, clock.replace(fold=fold)).astimezone() for fold in (0, 1))
    return both if both[0].time() == clock else both[1:]
