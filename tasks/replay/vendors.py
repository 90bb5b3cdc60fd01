"""The vendors that a replay can imitate, by feed name."""

from collections.abc import Callable

from tasks.replay.coinbase import Coinbase
from tasks.replay.finnhub import Finnhub
from tasks.replay.vendor import Vendor

VENDORS: dict[str, Callable[[], Vendor]] = {"finnhub": Finnhub, "coinbase": Coinbase}
