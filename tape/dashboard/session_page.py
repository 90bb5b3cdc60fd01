"""The page of a session: its parts, what the user has chosen, and what is sent each tick."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from nicegui import ui
from nicegui.events import GenericEventArguments

from tape.dashboard import charts, palette
from tape.dashboard.choice import INTERVALS_S, Choice
from tape.dashboard.hub import Hub
from tape.dashboard.model import Board, Source, SymbolRow
from tape.dashboard.parts import Figures, Lists, Notes, Prints, State, Timeline, WatchList
from tape.dashboard.tags import Chart, Tag
from tape.dashboard.wording import NOTHING, number
from tasks.errors import RecorderError
from tasks.records.trade import NS_PER_S
from tasks.shown import plain

BARS, _PACE_S, _PRINTS = 120, 300, 60
_RATE_TOLD = "Trades of each second of the last five minutes"
_LAG_TOLD = "Lag of each second of the last five minutes in milliseconds: three percentiles"

# Adds or removes symbols of the session and returns what was done in a line; raises RecorderError.
ChangeSymbols = Callable[[str, list[str]], Awaitable[str]]


class SessionPage:
    """A tab that shows a session."""

    def __init__(
        self,
        hub: Hub,
        session: str,
        source: Source,
        choice: Choice,
        state: State,
        change_symbols: ChangeSymbols | None = None,
    ) -> None:
        """Build the page below its header, which has the `state`; the caller holds the hub's lock."""
        self.session, self._state = session, state
        self._hub, self._source, self._change_symbols = hub, source, change_symbols
        board = source.board()
        if choice.symbol not in {row.symbol for row in board.rows}:
            busiest = max(board.rows, key=lambda row: row.trades, default=None)
            choice = replace(choice, symbol=busiest.symbol if busiest else "")
        self._choice, self._bars = choice, BARS
        self._repaint = False
        # Until the browser says what is visible, nothing is sent beyond the page itself.
        self._visible: frozenset[str] = frozenset()
        ui.on("tape-visible", self._see)
        ui.on("tape-dark", self._darken)
        self._build(board)

    def show(self) -> None:
        """Send what has changed of what is visible."""
        if not self._visible:
            return
        board = self._source.board()
        if self._repaint:  # Charts have their colors from here, also those that are out of sight.
            self._repaint = False
            self._show_symbol(board)
            self._show_strips(board)
        self._state.show(board)
        self._notes.show(board)
        shown = {
            "figures": lambda: self._figures.show(board),
            "symbol": lambda: self._show_symbol(board),
            "strips": lambda: self._show_strips(board),
            "watch": lambda: self._watch.show(board),
            "line": lambda: self._timeline.show(board),
            "prints": lambda: self._show_prints(),
            "lists": lambda: self._lists.show(board),
        }
        for name in self._visible & shown.keys():
            shown[name]()

    # Building

    def _build(self, board: Board) -> None:
        with Tag("div", data_part="figures"):
            self._figures = Figures()
        self._notes = Notes()
        with Tag("div", "board", id="main"):
            with Tag("section", "panel watch", aria_label="Watch-list", data_part="watch"):
                self._build_watch(board)
            with Tag("section", "panel symbol", aria_label="Chart of the symbol", data_part="symbol"):
                self._build_symbol(board)
            with Tag("section", "panel strips", aria_label="Rate and lag", data_part="strips"):
                self._build_strips(board)
            with Tag("section", "panel side", aria_label="Trades and batches"):
                with Tag("div", "prints", data_part="prints"):
                    self._prints = Prints()
                with Tag("div", "lists", data_part="lists"):
                    self._lists = Lists(self._hub.wanted.set)
            with Tag("section", "panel line", aria_label="Timeline of the session", data_part="line"):
                self._timeline = Timeline()
                self._build_controls()
        for part in (self._state, self._figures, self._timeline, self._lists, self._notes):
            part.show(board)
        self._show_prints()

    def _build_watch(self, board: Board) -> None:
        with Tag("div", "head"):
            Tag("h2", text="Symbols")
            find = Tag("input", type="search", placeholder="Filter", aria_label="Filter symbols", data_testid="filter")
        if self._change_symbols:
            with Tag("form", "add", aria_label="Add symbols") as form:
                name = Tag("input", name="symbols", placeholder="Add, such as AAPL MSFT", aria_label="Symbols to add",
                           autocomplete="off", spellcheck="false", data_testid="add-symbols")  # fmt: skip
                Tag("button", text="Add", type="submit", data_testid="add")
                remove = Tag("button", text="Remove", type="button", data_testid="remove")
            remove.set(aria_label="Remove the symbol that is shown").on("click", self._ask)
            read = "(e) => { e.preventDefault(); emit(e.target.symbols.value); }"
            form.on("submit", self._add, js_handler=read)
            self._added = name
            self._said = Tag("p", "said", role="status", data_testid="said")
        self._watch = WatchList(board, self._choice.symbol, self._choose_symbol)
        self._watch.filter_from(find)

    def _build_symbol(self, board: Board) -> None:
        with Tag("div", "head"):
            self._title = Tag("h2", data_testid="symbol")
            self._last = Tag("span", "quote", data_testid="last")
            self._moved = Tag("span", "", data_testid="change")
            Tag("span", "grow")
            self._build_tools()
            self._mode = Tag("button", aria_pressed="false", data_testid="mode").on("click", self._switch_mode)
            self._every: dict[str, Tag] = {}
            with Tag("div", "segments", role="group", aria_label="Length of a bar"):
                for name in INTERVALS_S:
                    button = Tag("button", text=name, aria_pressed="false", data_testid=f"every-{name}")
                    self._every[name] = button.on("click", lambda _, name=name: self._choose(every=name))
        self._chart = Chart(self._symbol_options(board), self._choice, self._told(), "chart")
        with Tag("dialog", aria_label="Remove the symbol") as self._dialog:
            self._question = Tag("p")
            with Tag("form", "head", method="dialog"):
                Tag("button", text="Cancel")
                Tag("button", "primary", "Remove", data_testid="confirm").on("click", self._remove_chosen)
        self._show_symbol(board)

    def _build_tools(self) -> None:
        """Add what can be done with the symbol; of a running session, the list has it."""

    def _build_controls(self) -> None:
        """Add what moves along the timeline; time moves by itself in a running session."""

    def _build_strips(self, board: Board) -> None:
        rate, lag = self._strip_options(board)
        with Tag("div"):
            with Tag("div", "head"):
                Tag("h3", text="Trades per second")
            self._rate = Chart(rate, self._choice.dark, _RATE_TOLD, "rate")
        with Tag("div"):
            with Tag("div", "head"):
                Tag("h3", text="Lag, ms")
                with Tag("span", "key", aria_hidden="true"):
                    for name in ("p50", "p95", "p99"):
                        Tag("i", name)
                        Tag("b", text=name)
            self._lag = Chart(lag, self._choice.dark, _LAG_TOLD, "lag")

    # Showing

    def _row(self, board: Board) -> SymbolRow | None:
        return next((row for row in board.rows if row.symbol == self._choice.symbol), None)

    def _show_symbol(self, board: Board) -> None:
        row, choice = self._row(board), self._choice
        last = number(row.last, row.decimals) if row else NOTHING
        self._title.say(plain(choice.symbol) or "No symbol yet")
        self._last.say(last)
        change = row.change if row else None
        name, arrow = ("up", "▲") if (change or 0) > 0 else ("down", "▼") if (change or 0) < 0 else ("muted", "")
        self._moved.say(NOTHING if change is None else f"{arrow} {abs(100 * change):.2f} %")
        if name not in self._moved.classes:
            self._moved.classes(replace=name)
        self._mode.say("Line" if choice.as_line else "Candles")
        self._mode.set(aria_label=f"Shown as {'a line' if choice.as_line else 'candles'}; press for the other")
        for each, button in self._every.items():
            button.set(aria_pressed="true" if each == choice.every else "false")
        self._chart.show(self._symbol_options(board), choice, self._told())

    def _told(self) -> str:
        kind = "line" if self._choice.as_line else "candles"
        return f"Prices of {plain(self._choice.symbol)} as {kind} of {self._choice.every}, volume below, gaps shaded"

    def _show_prints(self) -> None:
        symbol = self._choice.symbol
        make = partial(self._source.prints, symbol, _PRINTS)
        self._prints.show(symbol, self._hub.once((id(self._source), "prints", symbol), make))

    def _show_strips(self, board: Board) -> None:
        rate, lag = self._strip_options(board)
        self._rate.show(rate, self._choice.dark, _RATE_TOLD)
        self._lag.show(lag, self._choice.dark, _LAG_TOLD)

    def _symbol_options(self, board: Board) -> charts.Options:
        choice, every_ns = self._choice, INTERVALS_S[self._choice.every] * NS_PER_S

        def make() -> charts.Options:
            row = self._row(board)
            return charts.symbol_chart(
                self._source.bars(choice.symbol, every_ns, self._bars),
                charts.window_of(board.now_ns, every_ns, self._bars),
                [gap for gap in board.gaps if choice.symbol in gap.symbols],
                row.decimals if row else 2,
                palette.DARK if choice.dark else palette.LIGHT,
                as_line=choice.as_line,
            )

        return self._hub.once((id(self._source), choice, self._bars), make)

    def _strip_options(self, board: Board) -> tuple[charts.Options, charts.Options]:
        colors = palette.DARK if self._choice.dark else palette.LIGHT

        def make() -> tuple[charts.Options, charts.Options]:
            since_start_s = (board.now_ns - board.start_ns) // NS_PER_S
            pace = self._source.pace(max(1, min(_PACE_S, since_start_s)))
            window = charts.window_of(board.now_ns, NS_PER_S, _PACE_S)
            return (
                charts.rate_chart(pace, window, board.gaps, colors),
                charts.lag_chart(pace, window, board.gaps, colors),
            )

        return self._hub.once((id(self._source), "pace", self._choice.dark), make)

    # What the user does

    def _see(self, event: GenericEventArguments) -> None:
        self._visible = frozenset(map(str, event.args["parts"]))
        self._bars = 60 if event.args["width"] < 760 else 240 if event.args["width"] > 1_800 else BARS
        self._hub.wanted.set()

    def _darken(self, event: GenericEventArguments) -> None:
        self._choose(dark=bool(event.args))
        self._repaint = True

    def _address(self) -> str:
        return self._choice.address(self.session)

    def _choose_symbol(self, symbol: str) -> None:
        self._choose(symbol=symbol)

    def _switch_mode(self) -> None:
        self._choose(as_line=not self._choice.as_line)

    def _choose(self, **changes: object) -> None:
        chosen = replace(self._choice, **changes)  # type: ignore[arg-type]
        if chosen == self._choice:
            return
        self._choice = chosen
        ui.run_javascript(f"history.replaceState({{}}, '', {json.dumps(self._address())})")
        self._hub.wanted.set()

    async def _add(self, event: GenericEventArguments) -> None:
        symbols = str(event.args).replace(",", " ").split()
        if symbols and await self._change("added", symbols):
            ui.run_javascript(f"getHtmlElement({self._added.id}).value = ''")

    def _ask(self) -> None:
        self._question.say(f"Stop recording {plain(self._choice.symbol)}? Its recorded trades are kept.")
        ui.run_javascript(f"getHtmlElement({self._dialog.id}).showModal()")

    async def _remove_chosen(self) -> None:
        await self._change("removed", [self._choice.symbol])

    async def _change(self, action: str, symbols: list[str]) -> bool:
        if self._change_symbols is None:
            return False
        try:
            said, failed = await self._change_symbols(action, symbols), False
        except RecorderError as error:
            said, failed = str(error), True
        self._said.classes(replace="said wrong" if failed else "said")
        self._said.say(plain(said))
        return not failed
