"""The feeds that can be recorded, by name."""

from tasks.errors import SettingsError
from tasks.feeds.base import Feed
from tasks.feeds.coinbase import Coinbase
from tasks.feeds.finnhub import Finnhub
from tasks.zones import UTC

DEFAULT = "finnhub"
FEEDS: dict[str, Feed] = {feed.name: feed for feed in (Finnhub(), Coinbase())}
# The settings that hold the feeds' API keys.
KEY_SETTINGS = tuple(feed.key_setting for feed in FEEDS.values() if feed.key_setting is not None)


def feed_named(name: str) -> Feed:
    """Return the feed with that name. Raises SettingsError if there is none."""
    feed = FEEDS.get(name)
    if feed is None:
        raise SettingsError(f"feed: {name[:40]!r} is not known; choose one of {', '.join(FEEDS)}")
    return feed


def never_closes(feed: str, symbol: str) -> bool:
    """Return whether the symbol has UTC days because its market never closes for the day.

    An unknown feed, as in a record of a later version, is assumed to follow its exchange.
    """
    known = FEEDS.get(feed)
    return known is not None and known.market_hours(symbol) != "exchange"


def numbers_trades(feed: str) -> bool:
    """Return whether a missing trade ID of that feed is a missing trade."""
    known = FEEDS.get(feed)
    return known is not None and known.numbers_trades


def zone_of(feed: str, symbol: str, exchange_zone: str) -> str:
    """Return the time zone of the symbol's days; `exchange_zone` is that of its exchange."""
    return UTC if never_closes(feed, symbol) else exchange_zone
