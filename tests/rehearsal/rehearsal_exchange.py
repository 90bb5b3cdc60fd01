"""The exchange of a rehearsal: a day whose hours are in `hours.json` beside this file, with an early close.

The rehearsal puts this into its installation, where every Python process runs it as it starts. The exchange is
registered when the calendars are first imported, which takes a second that most processes do not need.
"""

import datetime as dt
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

NAME = "REHEARSAL"
HOURS = Path(__file__).with_name("hours.json")


class _OnImport(importlib.abc.MetaPathFinder):
    """Finds exchange_calendars as every other finder does, and registers the exchange once it is imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != "exchange_calendars" or not HOURS.exists():
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            register(module)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register(calendars: Any) -> None:
    """Register the exchange: `hours.json` has its zone and the date, the open and the early close of its one day."""
    import pandas as pd

    hours = json.loads(HOURS.read_text())
    day = str(hours["date"])

    class Exchange(calendars.ExchangeCalendar):  # type: ignore[misc]
        name = NAME
        tz = ZoneInfo(hours["zone"])
        open_times = ((None, dt.time.fromisoformat(hours["opens"])),)
        close_times = ((None, dt.time(23, 59)),)
        # Of the days around it none trades: the check would miss its recording.
        weekmask = "".join(str(int(n == dt.date.fromisoformat(day).weekday())) for n in range(7))

        @property
        def special_closes_adhoc(self) -> Any:
            return [(dt.time.fromisoformat(hours["closes"]), pd.DatetimeIndex([day]))]

    calendars.register_calendar_type(NAME, Exchange)


sys.meta_path.insert(0, _OnImport())
