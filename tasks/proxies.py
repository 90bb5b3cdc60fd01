"""Which proxy does a connection go by? What the usual variables say, in one way for the feed and for the bucket.

The variables are `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in either case; Python's own library reads
them. Each of the libraries that connect for us knows others of them, and each takes a connection to this machine to a
proxy that cannot make it. So they are asked here once, and the libraries are told.
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
        """`user:password`, or None where the proxy asks for none."""
        parts = urlsplit(self.url)
        return None if parts.username is None else f"{unquote(parts.username)}:{unquote(parts.password or '')}"


def proxy_for(target: Address, schemes: tuple[str, ...] = ("http",)) -> Proxy | None:
    """The proxy for connections to that host, None where it is reached directly, as this machine always is.

    `schemes` are those by which the caller can speak to a proxy. Raises SettingsError, naming the variable, where it
    holds something else.
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
    # The text is not repeated: it may hold a password.
    raise SettingsError(f"{variable}: {wrong}; write {wanted}HOST:PORT, unset it, or name {target.host} in no_proxy")


def _is_exempt(target: Address, given: dict[str, str]) -> bool:
    """Whether `no_proxy` names the host: by name, by the end of its name, or by a network of IP addresses."""
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
