"""The proxy that the variables select for a host, and the error if it cannot be used."""

import os

import pytest

from tasks.address import address_of
from tasks.errors import SettingsError
from tasks.proxies import proxy_for

SECRET = "a-proxy-password"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the developer's own proxy variables."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("url", "address", "loopback"),
    [
        ("wss://WS.Example.COM.:443/a?b", "ws.example.com:443", False),
        ("WS://ws.example.com", "ws.example.com:80", False),
        ("https://münchen.example", "xn--mnchen-3ya.example:443", False),
        ("ws://localhost.:9", "localhost:9", True),
        ("ws://feed.LOCALHOST", "feed.localhost:80", True),
        ("ws://127.1:9", "127.0.0.1:9", True),
        ("http://127.8.9.10", "127.8.9.10:80", True),
        ("http://0.0.0.0", "0.0.0.0:80", True),
        ("ws://[0:0:0::1]:9", "[::1]:9", True),
        ("ws://[::ffff:127.0.0.1]:9", "127.0.0.1:9", True),
        ("ws://localhost.example:9", "localhost.example:9", False),
        ("ws://10.0.0.1:9", "10.0.0.1:9", False),
    ],
)
def test_an_address_has_one_spelling_and_loopback_is_known(url: str, address: str, loopback: bool) -> None:
    """All spellings of host and port give one address; every name of this machine is loopback."""
    assert (str(address_of(url)), address_of(url).is_loopback) == (address, loopback)


@pytest.mark.parametrize("url", ["", "feed.example", "ftp://feed.example", "ws://", "ws://a:b", "ws://[::1"])
def test_what_names_no_host_is_an_error(url: str) -> None:
    """Text that is not a supported URL raises an error."""
    with pytest.raises(ValueError):
        address_of(url)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "Http_Proxy", "all_proxy", "ALL_PROXY"])
def test_each_spelling_of_a_variable_counts_but_never_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Proxy variables in either case apply to other hosts and never to loopback."""
    monkeypatch.setenv(variable, "http://proxy.example:3128")
    found = proxy_for(address_of("ws://feed.example"))
    assert found is not None
    assert (found.variable, str(found.address)) == (variable.lower(), "proxy.example:3128")
    for mine in ("ws://localhost:1", "http://127.0.0.1:1", "ws://[::1]:1", "ws://127.1"):
        assert proxy_for(address_of(mine)) is None


def test_a_secure_connection_goes_by_https_proxy_and_the_general_one_comes_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`https_proxy` applies to wss and https, `http_proxy` to ws and http, `all_proxy` as the fallback."""
    monkeypatch.setenv("http_proxy", "plain.example")
    assert proxy_for(address_of("wss://feed.example")) is None
    monkeypatch.setenv("ALL_PROXY", "http://general.example:1")
    used = {url: proxy_for(address_of(url)) for url in ("wss://feed.example", "ws://feed.example")}
    assert [str(proxy.address) for proxy in used.values() if proxy] == ["general.example:1", "plain.example:80"]
    monkeypatch.setenv("HTTPS_PROXY", f"http://user%40home:{SECRET}%3A@secure.example:8080")
    proxy = proxy_for(address_of("wss://feed.example"))
    assert proxy is not None
    assert (str(proxy.address), proxy.credentials) == ("secure.example:8080", f"user@home:{SECRET}:")
    assert SECRET not in repr(proxy)


@pytest.mark.parametrize(
    ("no_proxy", "exempt"),
    [
        ("feed.example", True),
        ("other.example, FEED.example:80", True),
        ("feed.example:81", False),
        (".example", True),
        ("example", True),
        ("ample", False),
        ("*", True),
        ("10.0.0.0/8", False),
    ],
)
def test_no_proxy_exempts_names(monkeypatch: pytest.MonkeyPatch, no_proxy: str, exempt: bool) -> None:
    """`no_proxy` exempts a host by name, by domain suffix, or with `*`."""
    monkeypatch.setenv("http_proxy", "http://proxy.example")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_for(address_of("ws://feed.example")) is None) == exempt


@pytest.mark.parametrize(
    ("no_proxy", "exempt"),
    [("10.1.2.3", True), ("10.0.0.0/8", True), ("192.168.0.0/16,10.1.2.3/8", True), ("10.2.0.0/16, ::/0, x", False)],
)
def test_no_proxy_exempts_networks(monkeypatch: pytest.MonkeyPatch, no_proxy: str, exempt: bool) -> None:
    """`no_proxy` exempts an IP address by network."""
    monkeypatch.setenv("http_proxy", "http://proxy.example")
    monkeypatch.setenv("no_proxy", no_proxy)
    assert (proxy_for(address_of("ws://10.1.2.3:9")) is None) == exempt


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("https_proxy", f"socks5h://user:{SECRET}@proxy.example:1080"),
        ("ALL_PROXY", "socks://127.0.0.1:1080/"),
        ("https_proxy", f"https://user:{SECRET}@proxy.example"),
        ("HTTPS_PROXY", f"http://user:{SECRET}@proxy.example:http"),
        ("https_proxy", f"http://user:{SECRET}@[::1"),
        ("https_proxy", "http://"),
        ("https_proxy", "http://:3128"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_told_by_its_variable_without_its_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """An unsupported or invalid proxy raises one line with the variable and a valid format."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        proxy_for(address_of("wss://feed.example"))
    told = str(refused.value)
    assert told.startswith(f"{variable.lower()}: ")
    assert "write http://HOST:PORT, unset it, or name feed.example in no_proxy" in told
    assert SECRET not in told
    assert "\n" not in told
