"""Subscriptions follow the wanted list, and refusals without a name are matched by their order."""

import json

from hypothesis import given
from hypothesis import strategies as st

from tasks.capture.subscriptions import Subscriptions
from tasks.feeds.coinbase import Coinbase
from tasks.feeds.finnhub import Finnhub
from tasks.records.trade import NS_PER_S

lists = st.lists(st.sampled_from([f"S{n}" for n in range(12)]), unique=True, max_size=12)


def served(slots: int, requests: list[str], taken: dict[str, None]) -> int:
    """A vendor with so many slots handles the requests in order; return how many it refused."""
    refusals = 0
    for request in map(json.loads, requests):
        symbol = request["symbol"]
        if request["type"] == "unsubscribe":
            taken.pop(symbol, None)
        elif len(taken) < slots:
            taken[symbol] = None
        else:
            refusals += symbol not in taken
    return refusals


@given(st.integers(1, 12), st.lists(lists, min_size=1, max_size=5))
def test_whatever_is_wanted_the_refused_are_known(slots: int, wishes: list[list[str]]) -> None:
    """After any changes of the list, what a vendor serves is what was requested less what was refused."""
    ours, taken = Subscriptions(Finnhub()), dict[str, None]()
    for wish in wishes:
        _, requests = ours.follow(wish)
        refusals = served(slots, requests, taken)
        # The vendor's answers may come one by one or all at once.
        for count in [1] * (refusals // 2) + [refusals - refusals // 2] * (refusals > 0):
            assert len(ours.refuse_last(count)) == count
        assert set(ours.requested) == set(wish)
        assert set(taken) == set(ours.requested) - set(ours.refused)
    assert [json.loads(request) for request in ours.unsubscribe_all()] == [
        {"type": "unsubscribe", "symbol": symbol} for symbol in ours.requested
    ]


def test_asking_again_ends_and_renews_only_what_is_asked_for() -> None:
    """A silent symbol is unsubscribed and subscribed; one that is no longer wanted is left alone."""
    ours = Subscriptions(Finnhub())
    ours.follow(["A", "B"])
    renewed, requests = ours.renew(["B", "X"])
    assert renewed == ["B"]
    assert [(json.loads(each)["type"], json.loads(each)["symbol"]) for each in requests] == [
        ("unsubscribe", "B"),
        ("subscribe", "B"),
    ]


def test_a_refused_symbol_is_asked_for_again_when_a_slot_comes_free() -> None:
    """Refused symbols are requested again only when a symbol is removed, not when the list grows or stays."""
    ours = Subscriptions(Finnhub())
    ours.follow(["A", "B", "C"])
    assert ours.refuse_last(1) == ["C"]
    assert ours.follow(["A", "B", "C"]) == ([], [])
    assert ours.follow(["A", "B", "C", "D"])[0] == ["D"]
    assert list(ours.refused) == ["C"]
    new, requests = ours.follow(["A", "C", "D"])
    assert (new, list(ours.refused), list(ours.requested)) == (["C"], [], ["A", "D", "C"])
    assert [json.loads(each)["symbol"] for each in requests] == ["B", "C"]


def test_single_requests_keep_to_a_pace() -> None:
    """Of many unanswered symbols, each is requested alone once, at most fifty a second, until none is left."""
    ours, symbols = Subscriptions(Coinbase()), [f"S{n}-USD" for n in range(160)]
    ours.follow(symbols)
    ours.refuse(symbols[:10])
    sent: list[list[str]] = []
    for tenth in range(60):
        if tenth and not ours.is_split:
            break
        requests = ours.request_singly(7 + tenth * NS_PER_S // 10)
        sent.append([product for each in requests for product in json.loads(each)["product_ids"]])
        if tenth == 3:
            ours.acknowledge(symbols[150:])
    assert [(at, len(each)) for at, each in enumerate(sent) if each] == [(0, 50), (10, 50), (20, 40)]
    assert [product for each in sent for product in each] == symbols[10:150]
