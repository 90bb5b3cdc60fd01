"""Normalizes the host and port of a URL."""

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"ws": 80, "http": 80, "wss": 443, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """A normalized host and port: lowercase, ASCII, no trailing dot, IP addresses in canonical form."""

    host: str
    port: int
    is_secure: bool

    @property
    def is_default_port(self) -> bool:
        """Whether a URL can omit the port."""
        return self.port in _DEFAULT_PORTS.values()

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, by its name or IP address, without a DNS lookup."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        ip = ip_of(self.host)
        return ip is not None and (ip.is_loopback or ip.is_unspecified)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_of(url: str) -> Address:
    """Return the host and port of an http, https, ws, or wss URL. Raises ValueError if it has none."""
    parts = urlsplit(url)
    scheme, host = parts.scheme.lower(), parts.hostname
    if scheme not in _DEFAULT_PORTS or not host:
        raise ValueError("not a URL of http, https, ws or wss with a host")
    port = parts.port if parts.port is not None else _DEFAULT_PORTS[scheme]
    return Address(_one_spelling(host), port, scheme in ("wss", "https"))


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an IP address, including the short forms of IPv4 (127.1); None if it is a name."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip


def _one_spelling(host: str) -> str:
    ip = ip_of(host)
    if ip is not None:
        return str(ip)
    host = host.rstrip(".").lower()
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:  # The DNS lookup will report that the name is invalid.
        return host
