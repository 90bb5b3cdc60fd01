"""The parts of the page. Each is built once for a tab, and then shows a board; only what has changed is sent."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from tape.dashboard import markup
from tape.dashboard.model import Board, Print, SymbolRow
from tape.dashboard.tags import Markup, Tag
from tape.dashboard.wording import NOTHING, clock, day_and_clock, figures, health, number, silence
from tasks.shown import plain

FIGURES = {
    "left": ("Left", ""),
    "trades": ("Trades", ""),
    "rate": ("Trades / s", ""),
    "lag": ("Lag p50 · p95 · p99, ms", "wide"),
    "queue": ("Queue", ""),
    "reconnects": ("Reconnects", ""),
    "gaps": ("Gaps", ""),
    "batches": ("Batches archived", ""),
    "disk": ("Disk free", ""),
}


class Figures:
    """The figures of the session, large."""

    def __init__(self) -> None:
        """Create a list of terms and values."""
        self._values: dict[str, Tag] = {}
        with Tag("dl", "figures", aria_label="Figures of the session"):
            for name, (told, classes) in FIGURES.items():
                with Tag("div", classes):
                    Tag("dt", text=told)
                    self._values[name] = Tag("dd", text=NOTHING, data_testid=f"figure-{name}")

    def show(self, board: Board) -> None:
        """Show a board."""
        for name, text in figures(board).items():
            self._values[name].say(text)


class State:
    """Whether the session is alive, and what keeps it from being so."""

    def __init__(self) -> None:
        """Create an empty pill."""
        self._pill = Tag("span", "state", role="status", data_testid="state")

    def show(self, board: Board) -> None:
        """Show a board."""
        kind, told = health(board)
        self._pill.say(told)
        if kind not in self._pill.classes:
            self._pill.classes(replace=f"state {kind}")


class Notes:
    """What the recorder, or the page, has to say."""

    def __init__(self) -> None:
        """Create an empty place."""
        self._said: list[str] = []
        self._place = Tag("div", "notes", role="status", data_testid="notes")

    def show(self, board: Board) -> None:
        """Show a board."""
        said = self._of(board)
        if said == self._said:
            return
        self._said = said
        self._place.clear()
        with self._place:
            for text in said:
                Tag("p", "note", plain(text))

    @staticmethod
    def _of(board: Board) -> list[str]:
        status = board.status
        said = [board.problem, status and status.notice, status and status.error]
        if board.health == "stale" and status:
            age_s = (board.now_ns - status.updated_ns) // 10**9 // 5 * 5
            said.append(f"The recorder has not reported for more than {age_s} s: look at the disk and its log.")
        if status and status.refused_symbols:
            said.append(f"Refused by the feed: {', '.join(status.refused_symbols[:20])}")
        return [text for text in said if text]


class WatchList:
    """Every symbol in a grid that sorts, filters, and keeps its selection; only changed rows are sent."""

    def __init__(self, board: Board, chosen: str, choose: Callable[[str], None]) -> None:
        """Create the grid with the board's rows."""
        self._rows = {row.symbol: _row(row) for row in board.rows}
        select = f"(e) => e.api.getRowNode({json.dumps(chosen)})?.setSelected(true)"
        self._grid = ui.aggrid(
            {
                "columnDefs": _COLUMNS,
                "defaultColDef": {"sortable": True, "resizable": True, "suppressHeaderMenuButton": True,
                                  "cellDataType": False, "suppressMovable": True},
                "rowData": list(self._rows.values()),
                ":getRowId": "(row) => row.data.symbol",
                "rowSelection": {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True},
                ":onFirstDataRendered": select,
                ":onRowSelected": "(e) => { if (e.node.isSelected()) emitEvent('tape-symbol', e.data.symbol); }",
                ":onCellKeyDown": "(e) => { if (e.event.key === 'Enter') e.node.setSelected(true, true); }",
                "animateRows": False, "suppressColumnMoveAnimation": True, "suppressCellFocus": False,
                "suppressNoRowsOverlay": False, "overlayNoRowsTemplate": "<span>No symbol yet</span>",
            },
            auto_size_columns=False,
        )  # fmt: skip
        self._grid.props.update({"data-testid": "watchlist", "aria-label": "Symbols"})

        def selected(event: GenericEventArguments) -> None:
            if event.args in self._rows:
                choose(event.args)

        ui.on("tape-symbol", selected)

    def filter_from(self, field: Tag) -> None:
        """Filter by what is typed into that field, in the browser alone."""
        filter_by = f"(e) => getElement({self._grid.id}).api.setGridOption('quickFilterText', e.target.value)"
        field.on("input", js_handler=filter_by)

    def show(self, board: Board) -> None:
        """Show a board."""
        rows = {row.symbol: _row(row) for row in board.rows}
        changes = {
            "add": [row for symbol, row in rows.items() if symbol not in self._rows],
            "update": [row for symbol, row in rows.items() if row != self._rows.get(symbol, row)],
            "remove": [row for symbol, row in self._rows.items() if symbol not in rows],
        }
        self._rows = rows
        if any(changes.values()):
            self._grid.run_grid_method("applyTransaction", changes)


def _row(row: SymbolRow) -> dict[str, Any]:
    return {
        "symbol": row.symbol, "last": row.last, "change": row.change, "volume": row.volume, "trades": row.trades,
        "rhythm": None if row.rhythm_s is None else float(f"{row.rhythm_s:.2g}"), "silent": silence(row.silent_s),
        "gap": row.in_gap, "decimals": row.decimals,
    }  # fmt: skip


def _column(field: str, head: str, width: int, written: str, **more: Any) -> dict[str, Any]:
    right = {"type": "rightAligned", "sortingOrder": ["desc", "asc", None]}
    return {"field": field, "headerName": head, "width": width, ":valueFormatter": f"(p) => {written}", **right, **more}


_COLUMNS: list[dict[str, Any]] = [
    {"field": "symbol", "headerName": "Symbol", "minWidth": 120, "flex": 1, "cellClass": "name", "pinned": "left",
     "width": 143, ":tooltipValueGetter": "(p) => p.value"},
    _column("last", "Last", 88, "tape.price(p.value, p.data.decimals)"),
    _column("change", "Change", 80, "tape.change(p.value)", cellClassRules={"up": "value > 0", "down": "value < 0"}),
    _column("volume", "Volume", 66, "tape.short(p.value)"),
    _column("gap", "Gap", 46, "p.value ? 'gap' : ''", cellClassRules={"gap": "value"}),
    _column("silent", "Silent", 56, "tape.silence(p.value)", cellClass="quiet"),
    _column("rhythm", "Every", 60, "p.value == null ? '–' : tape.short(p.value) + ' s'", cellClass="quiet"),
    _column("trades", "Trades", 66, "tape.short(p.value)", cellClass="quiet"),
]  # fmt: skip


class Prints:
    """The latest trades of the symbol."""

    def __init__(self) -> None:
        """Create an empty table."""
        with Tag("div", "head"):
            self._title = Tag("h3", text="Prints")
        self._table = Markup("scroll", tabindex="0", role="region", aria_label="Latest trades", data_testid="prints")

    def show(self, symbol: str, prints: tuple[Print, ...]) -> None:
        """Show trades, newest first."""
        self._title.say(f"Prints {plain(symbol)}")
        self._table.show(markup.prints_table(prints))


class Lists:
    """Gaps, batches, and quarantine, one at a time."""

    _MAKERS: Mapping[str, Callable[[Board], str]] = {
        "gaps": lambda board: markup.gaps_table(board.gaps, board.now_ns // 10**9 * 10**9),
        "batches": lambda board: markup.batches_table(board.batches),
        "quarantine": lambda board: markup.quarantine_table(board.quarantine),
    }

    def __init__(self, changed: Callable[[], None]) -> None:
        """Create the tabs; `changed` asks for the next board."""
        self._open, self._changed, self._tabs = "gaps", changed, dict[str, Tag]()
        with Tag("div", "head"), Tag("div", "segments", role="tablist", aria_label="Details"):
            for name in self._MAKERS:
                tab = Tag("button", text=name.title(), role="tab", data_testid=f"tab-{name}", aria_controls="details")
                self._tabs[name] = tab.on("click", lambda _, name=name: self._choose(name))
        self._place = Markup("scroll", id="details", tabindex="0", role="tabpanel", data_testid="details")
        self._mark()

    def _choose(self, name: str) -> None:
        self._open = name
        self._mark()
        self._changed()

    def _mark(self) -> None:
        for name, tab in self._tabs.items():
            tab.set(aria_selected="true" if name == self._open else "false")

    def show(self, board: Board) -> None:
        """Show a board."""
        counts = {"gaps": len(board.gaps), "batches": len(board.batches), "quarantine": sum(board.quarantine.values())}
        for name, count in counts.items():
            self._tabs[name].say(f"{name.title()} {number(count)}")
        self._place.show(self._MAKERS[self._open](board))


class Timeline:
    """The session from its start to its deadline."""

    def __init__(self) -> None:
        """Create an empty line."""
        self._line = Markup("timeline", role="img", data_testid="timeline")
        with Tag("div", "ends"):
            self._start, self._end = Tag("span"), Tag("span")

    def show(self, board: Board) -> None:
        """Show a board."""
        told = markup.timeline_told(board)
        if self._line.props.get("aria-label") != told:
            self._line.props["aria-label"] = told
        self._line.show(markup.timeline(board))
        self._start.say(f"{day_and_clock(board.start_ns)} UTC")
        self._end.say(f"{clock(board.end_ns)} UTC")
