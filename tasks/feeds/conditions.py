"""What a trade's condition codes allow it to set in a bar: volume, high and low, open and close.

The codes and rules of a vendor are a data file beside its feed. They are applied when the archive is read and never
stored in it, so a better rule also applies to what was recorded before.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec


@dataclass(frozen=True, kw_only=True)
class ConditionRules:
    """The rules of one vendor, by code. `names` has every known code.

    A trade sets what none of its codes forbids, and everything if it has no code. If none of its codes is known, it
    counts as volume only. `extended` marks trades outside of regular hours: they set no open, high, low, or close of
    regular hours or of a day. `daily_only` codes set these for a day alone.
    """

    version: str
    names: dict[str, str]
    no_volume: tuple[str, ...] = ()
    no_high_low: tuple[str, ...] = ()
    no_open_close: tuple[str, ...] = ()
    extended: tuple[str, ...] = ()
    daily_only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError if a rule names a code that has no name: most likely a slip."""
        rules = (self.no_volume, self.no_high_low, self.no_open_close, self.extended, self.daily_only)
        unknown = {code for rule in rules for code in rule} - self.known
        if unknown:
            raise ValueError(f"conditions {self.version}: {', '.join(sorted(unknown))} have a rule but no name")

    @cached_property
    def known(self) -> frozenset[str]:
        """Every known code."""
        return frozenset(self.names)

    def sets_volume(self, codes: Collection[str]) -> bool:
        """Return whether a trade with these codes counts as volume."""
        return not _any(codes, self.no_volume)

    def sets_high_low(self, codes: Collection[str], *, regular: bool, daily: bool = False) -> bool:
        """Return whether such a trade sets high and low of a bar in regular hours, outside of them, or of a day."""
        return self._sets(codes, self.no_high_low, regular, daily)

    def sets_open_close(self, codes: Collection[str], *, regular: bool, daily: bool = False) -> bool:
        """Return whether such a trade sets open and close of a bar in regular hours, outside of them, or of a day."""
        return self._sets(codes, self.no_open_close, regular, daily)

    def _sets(self, codes: Collection[str], forbidden: tuple[str, ...], regular: bool, daily: bool) -> bool:
        if not codes:
            return True
        if not self.known.intersection(codes) or _any(codes, forbidden):
            return False
        return not _any(codes, self.extended if regular or daily else ()) and (
            daily or not _any(codes, self.daily_only)
        )


def _any(codes: Collection[str], forbidden: tuple[str, ...]) -> bool:
    return any(code in forbidden for code in codes)


def read_rules(name: str) -> ConditionRules:
    """Read a vendor's rules from the file of that name beside this module. Raises ValueError if it is not valid."""
    return msgspec.toml.decode((Path(__file__).parent / name).read_bytes(), type=ConditionRules)
