"""What a tab shows of a session whose every figure is known, in a real Chromium."""

from itertools import pairwise
from typing import Any

import pytest
from browser import OpenTab, Tab, free_port, generated
from generated_session import HOSTILE, SYMBOLS, Generated

from tape.dashboard.palette import DARK, LIGHT

CHART = "getElement(document.querySelector('[data-testid=chart]').id.slice(1)).chart.getOption()"
WIDTHS = (360, 768, 1440, 2560)
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def title_is(tab: Tab, symbol: str) -> None:
    tab.until("(name) => document.querySelector('[data-testid=symbol]').textContent === name", symbol)


def choose(tab: Tab, symbol: str) -> None:
    tab.page.get_by_test_id("filter").fill(symbol)
    tab.page.locator(".ag-row", has_text=symbol).first.click()
    title_is(tab, symbol)


@pytest.mark.parametrize(
    ("symbol", "decimals"), [("BINANCE:BTCUSDT", 2), ("OANDA:EUR_USD", 5), ("MSFT", 2), (HOSTILE, 1)]
)
def test_a_click_on_a_symbol_shows_it(page_url: str, tab: OpenTab, symbol: str, decimals: int) -> None:
    """Title, price, chart, and prints are the symbol's, with its decimals; a name is never read as HTML."""
    it = tab(page_url).live()
    choose(it, symbol)
    expected = Generated().symbols[symbol][0]
    last = it.text("last").replace(",", "")
    assert len(last.partition(".")[2]) == decimals
    assert float(last) == pytest.approx(expected, rel=0.02)
    it.until(f"(near) => Math.abs({CHART}.series[0].data.at(-1)[2] / near - 1) < 0.02", expected)
    it.until("(near) => Math.abs(parseFloat(document.querySelector('[data-testid=prints] td:nth-child(2)')"
             ".textContent.replace(/[^0-9.]/g, '')) / near - 1) < 0.02", expected)  # fmt: skip
    assert it.page.evaluate("() => window.hacked") is None
    assert it.page.locator("#app img").count() == 0


def test_the_choice_survives_a_reload(page_url: str, tab: OpenTab) -> None:
    """Symbol, interval, and kind of chart are in the address."""
    it = tab(page_url).live()
    choose(it, "OANDA:EUR_USD")
    it.page.get_by_test_id("every-1m").click()
    it.page.get_by_test_id("mode").click()
    it.until("() => location.search.includes('every=1m') && location.search.includes('line=1')")
    it.page.reload()
    it.live()
    assert it.text("symbol") == "OANDA:EUR_USD"
    assert it.page.get_by_test_id("every-1m").get_attribute("aria-pressed") == "true"
    options = it.chart()
    assert not options["series"][0]["data"]
    times = [point[0] for point in options["series"][1]["data"] if point[1] is not None]
    assert len(times) > 5
    assert {later - earlier for earlier, later in pairwise(times)} == {60_000}


def test_the_page_moves_on(page_url: str, tab: OpenTab) -> None:
    """Bars, the rate, the latest trade, the countdown, and the timeline change by themselves."""
    it = tab(page_url).live()
    read = f"""() => [{CHART}.series[0].data.at(-1)[0], {CHART.replace("=chart", "=rate")}.series[0].data.at(-1)[0],
        document.querySelector('[data-testid=prints] td').textContent,
        document.querySelector('[data-testid=figure-left]').textContent,
        document.querySelector('[data-testid=timeline]').innerHTML]"""
    before = it.page.evaluate(read)
    it.until(f"(before) => ({read})().every((value, i) => value !== before[i])", before)


def test_every_interval_is_shown(page_url: str, tab: OpenTab) -> None:
    """From one second to one day a bar, each bar at a multiple of its length, in a window of whole periods."""
    it = tab(page_url).live()
    for name, every_ms in (("5s", 5_000), ("15s", 15_000), ("5m", 300_000), ("15m", 900_000), ("1h", 3_600_000),
                           ("1d", 86_400_000), ("1s", 1_000)):  # fmt: skip
        it.page.get_by_test_id(f"every-{name}").click()
        it.until(
            f"(ms) => {{ const o = {CHART};"
            " const x = o.xAxis[0]; return x.max - x.min === 120 * ms && o.series[0].data.length > 0"
            " && o.series[0].data.every((bar) => bar[0] % ms === 0 && bar[0] >= x.min && bar[0] < x.max); }",
            every_ms,
        )


def test_gaps_are_shown_also_the_open_one(tab: OpenTab) -> None:
    """The timeline, the list, and the charts show every gap; the open one is said to be open."""
    with generated(age_s=665, moving=False) as url:
        it = tab(url).live()
        gaps = Generated(age_s=665, moving=False).gaps()
        assert sum(gap.end_ns is None for gap in gaps) == 1
        assert it.page.locator("[data-testid=timeline] [data-gap]").count() == len(gaps)
        assert it.page.locator("[data-testid=timeline] [data-gap=open]").count() == 1
        assert it.page.locator("[data-testid=details] tr[data-gap]").count() == len(gaps)
        assert it.page.locator("[data-testid=details] tr[data-gap=open]").first.inner_text().count("open") == 1
        assert it.text("figure-gaps") == f"{len(gaps)} (1 open)"
        chart = it.chart()
        window = chart["xAxis"][0]
        shaded = chart["series"][1]["markArea"]["data"]
        in_window = [gap for gap in gaps if (gap.end_ns or 2**63) > window["min"] * 10**6]
        assert len(shaded) == len(in_window)
        assert shaded[-1][1]["xAxis"] == window["max"]
        drawn = [bar[0] for bar in chart["series"][0]["data"]]
        assert not [at for at in drawn for start, end in shaded if start["xAxis"] <= at < end["xAxis"]]


def test_a_period_without_a_trade_is_a_hole(page_url: str, tab: OpenTab) -> None:
    """The axis is one of time: seconds without a trade take as much room as others."""
    it = tab(page_url).live()
    it.page.get_by_test_id("every-5s").click()
    hole = """() => { const c = getElement(document.querySelector('[data-testid=chart]').id.slice(1)).chart;
        const o = c.getOption(), at = (ms) => c.convertToPixel({ xAxisIndex: 0 }, ms), x = o.xAxis[0];
        if (x.max - x.min !== 600000) return 0;
        return (at(x.min + 60000) - at(x.min)) / (at(x.max) - at(x.min)); }"""
    assert it.until(f"() => ({hole})() || null") == pytest.approx(0.1, abs=0.001)


def test_the_watch_list_sorts_filters_and_keeps_its_selection(tab: OpenTab) -> None:
    """500 symbols: sorted by any column, filtered as one types, the chosen row stays chosen while figures change."""
    with generated(extra=500) as url:
        it = tab(url).live()
        choose(it, "SYM123")
        it.page.get_by_test_id("filter").fill("")
        head = it.page.locator(".ag-header-cell", has_text="Volume")
        head.click()
        it.until("() => document.querySelector('.ag-header-cell[aria-sort=descending]')")
        volumes = [row["volume"] for row in it.rows()]
        assert len(volumes) == 508
        assert volumes == sorted(volumes, reverse=True)
        seen = it.text("figure-trades")
        it.until("(seen) => document.querySelector('[data-testid=figure-trades]').textContent !== seen", seen)
        chosen = """() => { const e = document.querySelector("[data-testid=watchlist]");
            return getElement(e.id.slice(1)).api.getSelectedRows().map((row) => row.symbol); }"""
        assert it.page.evaluate(chosen) == ["SYM123"]
        it.page.get_by_test_id("filter").fill("oanda")
        it.until("() => document.querySelectorAll('.ag-center-cols-container .ag-row').length === 1")


def test_the_keyboard_chooses_a_symbol(page_url: str, tab: OpenTab) -> None:
    """Arrows walk through the list, Enter chooses; what has the focus can be seen."""
    it = tab(page_url).live()
    it.page.locator(".ag-row").nth(0).locator(".ag-cell").first.click()
    before = it.text("symbol")
    it.page.keyboard.press("ArrowDown")
    it.page.keyboard.press("ArrowDown")
    it.page.keyboard.press("Enter")
    it.until("(before) => document.querySelector('[data-testid=symbol]').textContent !== before", before)
    assert it.text("symbol") == it.rows()[2]["symbol"]
    it.page.get_by_test_id("filter").focus()
    it.page.keyboard.press("Tab")
    focused = "() => getComputedStyle(document.activeElement).outlineStyle"
    assert it.page.evaluate(focused) == "solid"


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_and_theme_fits(page_url: str, tab: OpenTab, width: int) -> None:
    """No horizontal scrolling from phone to wall; the system's theme, dark, and light, remembered and in the charts."""
    it = tab(page_url, width=width, color_scheme="dark").live()
    assert it.page.evaluate(OVERFLOW) <= 0
    assert it.page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(13, 15, 18)"
    color_is = f"(color) => {CHART}.series[0].itemStyle.borderColor === color"
    it.until(color_is, DARK.up)
    # On a phone the rate is out of sight.
    it.until(f"(color) => {CHART.replace('=chart', '=rate')}.series[0].itemStyle.color === color", DARK.accent)
    button = it.page.get_by_test_id("theme")
    it.until("() => document.querySelector('[data-testid=theme]').textContent === 'Auto'")
    button.click()
    button.click()
    it.until("() => document.documentElement.dataset.theme === 'light'")
    it.until(color_is, LIGHT.up)
    assert it.page.evaluate(OVERFLOW) <= 0
    it.page.reload()
    it.live()
    assert it.page.evaluate("() => document.documentElement.dataset.theme") == "light"
    it.until("() => document.querySelector('[data-testid=theme]').textContent === 'Light'")


def test_the_systems_theme_is_followed(page_url: str, tab: OpenTab) -> None:
    """Without a choice the page changes with the system, at once."""
    it = tab(page_url, color_scheme="light").live()
    assert it.page.evaluate("() => document.documentElement.dataset.theme") == "light"
    it.page.emulate_media(color_scheme="dark")
    it.until("() => document.documentElement.dataset.theme === 'dark'")


def test_two_tabs_agree_and_a_restarted_server_reconnects(tab: OpenTab) -> None:
    """Both tabs show the same figures of the same moment; a new server's page shows the same symbol again."""
    port = free_port()
    with generated(port) as url:
        one, two = tab(url).live(), tab(url).live()
        choose(one, "BINANCE:BTCUSDT")
        choose(two, "BINANCE:BTCUSDT")
        bars: list[Any] = []
        for it in (one, two):
            bars.append({bar[0]: bar for bar in it.chart()["series"][0]["data"][:-2]})
        both = bars[0].keys() & bars[1].keys()
        assert len(both) > 50
        assert [bars[0][at] for at in both] == [bars[1][at] for at in both]
        one.errors.clear()
        two.errors.clear()
    for it in (one, two):
        it.page.evaluate("() => { window.before = true; }")
    with generated(port):
        for it in (one, two):
            it.until("() => !window.before && window.did_handshake")
            it.live()
            title_is(it, "BINANCE:BTCUSDT")
            # While there was no server, the browser reported each attempt to reach it.
            it.errors = [error for error in it.errors if "ERR_CONNECTION" not in error and "WebSocket" not in error]


def test_nothing_is_sent_when_nothing_changes(tab: OpenTab) -> None:
    """A still session costs no message: five ticks pass without one."""
    with generated(moving=False) as url:
        it = tab(url).live()
        frames: list[str] = []
        it.sockets[0].on("framereceived", lambda frame: frames.append(str(frame)))
        sent = ["not looked yet"]
        for _ in range(10):  # What opening the page set off may take its time on a busy machine.
            frames.clear()
            it.page.wait_for_timeout(2_500)
            sent = [frame for frame in frames if "setOption" in frame or "update" in frame or "apply" in frame]
            if not sent:
                break
        assert sent == []


def test_only_changed_rows_are_sent(tab: OpenTab) -> None:
    """Of 500 symbols those whose figures stay the same are not sent again."""
    with generated(extra=500) as url:
        it = tab(url).live()
        sent = """() => new Promise((resolve) => { const grid = getElement(document.querySelector(
            "[data-testid=watchlist]").id.slice(1)), old = grid.run_grid_method;
            grid.run_grid_method = (name, ...args) => { resolve([name, args[0].update.length, args[0].add.length]);
            grid.run_grid_method = old; return old(name, ...args); }; })"""
        name, updated, added = it.page.evaluate(sent)
        assert (name, added) == ("applyTransaction", 0)
        assert 0 < updated <= len(SYMBOLS)


def test_symbols_are_added_and_removed_from_the_page(page_url: str, tab: OpenTab) -> None:
    """What was done is said; what is wrong is said in one line; a removal is confirmed first."""
    it = tab(page_url).live()
    field = it.page.get_by_test_id("add-symbols")
    field.fill("ibm, <b>")
    it.page.get_by_test_id("add").click()
    it.until("() => document.querySelector('.said.wrong')")
    assert it.text("said") == "'ibm' is no symbol" or "'<b>' is no symbol" in it.text("said")
    field.fill("IBM GE")
    field.press("Enter")
    it.until("() => document.querySelector('[data-testid=said]').textContent === 'IBM, GE: added'")
    assert field.input_value() == ""
    choose(it, "MSFT")
    it.page.get_by_test_id("remove").click()
    it.page.get_by_test_id("confirm").click()
    it.until("() => document.querySelector('[data-testid=said]').textContent === 'MSFT: removed'")


def test_what_is_no_text_has_a_name(page_url: str, tab: OpenTab) -> None:
    """Charts, the timeline, and every control are named for whoever hears the page."""
    it = tab(page_url).live()
    nameless = """() => [...document.querySelectorAll('[role=img], button, input, select, section')].filter((e) =>
        !e.closest('.ag-root-wrapper') && !(e.getAttribute('aria-label') || e.textContent.trim()))
        .map((e) => e.outerHTML)"""
    assert it.page.evaluate(nameless) == []
    assert "gaps" in (it.page.get_by_test_id("timeline").get_attribute("aria-label") or "")
    assert "AAPL" in (it.page.get_by_test_id("chart").get_attribute("aria-label") or "")
    assert it.page.evaluate("() => document.documentElement.lang") == "en-US"


def test_nothing_moves_for_whoever_asked_for_it(page_url: str, tab: OpenTab) -> None:
    """With reduced motion no element has a running animation."""
    it = tab(page_url, reduced_motion="reduce").live()
    running = "() => document.getAnimations().filter((each) => each.playState === 'running').length"
    assert it.page.evaluate(running) == 0


def test_several_sessions_can_be_chosen(tab: OpenTab) -> None:
    """The newest is shown; the chooser opens another, which is then in the address."""
    names = ["20261124T143000Z-9f3c01ab", "20261124T150000Z-00c0ffee"]
    with generated(sessions=names) as url:
        it = tab(url).live()
        chooser = it.page.get_by_test_id("chooser")
        assert chooser.input_value() == names[1]
        chooser.select_option(names[0])
        it.until(
            "(name) => location.search.includes(name) && document.querySelector('[data-testid=chooser]')", names[0]
        )
        it.live()
        assert it.page.get_by_test_id("chooser").input_value() == names[0]


def test_without_a_session_the_page_says_so(tab: OpenTab) -> None:
    """How the last session ended, and a way to the archive."""
    with generated(sessions=[]) as url:
        it = tab(url)
        it.page.get_by_test_id("welcome").wait_for()
        assert "No session is being recorded" in it.text("welcome")
        assert "It ended." in it.text("welcome")
        assert it.page.locator(".welcome a").get_attribute("href") == "/archive"


def test_the_page_works_below_a_prefix(tab: OpenTab) -> None:
    """Page, scripts, sockets, and links stay below the prefix."""
    with generated(prefix="/market/tape") as url:
        it = tab(f"{url}/market/tape/").live()
        choose(it, "MSFT")
        outside = [each for each in it.requests if each.startswith(("http", "ws")) and "/market/tape/" not in each]
        assert outside == []
        hrefs = [link.get_attribute("href") or "" for link in it.page.locator("a").all()]
        assert all(href.startswith(("/market/tape/", "#")) for href in hrefs)
