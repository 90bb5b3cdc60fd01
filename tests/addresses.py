"""Addresses that a host can have: loopback ones that answer, refuse, are silent, or drop packets.

A resolver of a test's own names them, so that nothing of the system's name resolution is patched:

    connect(url, 5.0, dialer=Dialer(resolving(black_hole, server_address)))
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

Answer = tuple[int, int, int, str, Any]


def resolving(*addresses: tuple[str, int]) -> Callable[..., list[Answer]]:
    """A resolver that gives these (IP address, port) for every name, in this order."""

    def resolve(_host: str, _port: int, **_options: object) -> list[Answer]:
        return [_answer(*address) for address in addresses]

    return resolve


def _answer(ip: str, port: int) -> Answer:
    if ":" in ip:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (ip, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (ip, port))


@contextmanager
def black_hole() -> Iterator[tuple[str, int]]:
    """An address that answers no SYN: it listens, and its backlog is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.2", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield address


@contextmanager
def refusing() -> Iterator[tuple[str, int]]:
    """An address on which nobody listens, kept from others."""
    with socket.socket() as held:
        held.bind(("127.0.0.3", 0))
        yield held.getsockname()


@contextmanager
def silent() -> Iterator[tuple[str, int]]:
    """An address that takes connections and never says a word."""
    with socket.create_server(("127.0.0.4", 0), backlog=128) as listener:
        yield listener.getsockname()
