"""Selects the proxy of a connection from the usual variables, in the same way for the feed and the bucket.

The variables are `http_proxy`, `https_proxy`, `all_proxy`, and `no_proxy`, in either case, as Python's standard
library reads them. The libraries that connect for us each support a different subset, and each would use a proxy even
for this machine. So the proxy is chosen here and passed to them.
"""

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from tasks.address import Address, address_of, ip_of
from tasks.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and the variable that names it. `url` may hold a password."""

    variable: str
    address: Address
    url: str = field(repr=False)

    @property
    def credentials(self) -> str | None:
        """`user:password`, or None if the URL has none."""
        parts = urlsplit(self.url)
        return None if parts.username is None else f"{unquote(parts.username)}:{unquote(parts.password or '')}"


def proxy_for(target: Address, schemes: tuple[str, ...] = ("http",)) -> Proxy | None:
    """Return the proxy for connections to a host, or None for a direct one, as always to this machine.

    `schemes` are the proxy protocols that the caller supports. Raises SettingsError, naming the variable, if its value
    is not such a proxy.
    """
    given = getproxies_environment()
    kind = next((each for each in ("https" if target.is_secure else "http", "all") if given.get(each)), None)
    if kind is None or target.is_loopback or _is_exempt(target, given):
        return None
    variable, text = f"{kind}_proxy", given[kind].strip()
    url = text if "://" in text else f"http://{text}"
    wanted = " or ".join(f"{each}://" for each in schemes)
    try:
        if urlsplit(url).scheme.lower() in schemes:
            return Proxy(variable, address_of(url), url)
        wrong = f"names a proxy of another kind than {wanted}"
    except ValueError:
        wrong = "is not the address of a proxy"
    # The value is not shown, because it may contain a password.
    raise SettingsError(f"{variable}: {wrong}; write {wanted}HOST:PORT, unset it, or name {target.host} in no_proxy")


def _is_exempt(target: Address, given: dict[str, str]) -> bool:
    """Return whether `no_proxy` has the host: its name, a suffix of it, or a network with its IP address."""
    if proxy_bypass(str(target), given):
        return True
    ip = ip_of(target.host)
    return ip is not None and any(ip in network for network in _networks(given.get("no", "")))


def _networks(no_proxy: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    networks = []
    for each in no_proxy.split(","):
        try:
            networks.append(ipaddress.ip_network(each.strip().strip("[]"), strict=False))
        except ValueError:  # A name.
            continue
    return networks
