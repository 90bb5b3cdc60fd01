"""Loads a client at full speed with a server that needs almost no CPU itself.

    python blast.py --trades 200000 --per-frame 5 --symbols 50 [--rate 50000] [--certificate both.pem]

Prints its port, takes one client, does the WebSocket handshake by hand, waits until every symbol is subscribed,
sends frames that were built beforehand, then a close frame, and ends when the client has closed.
"""

import argparse
import base64
import hashlib
import json
import socket
import ssl
import struct
import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CLOSE = b"\x88\x02\x03\xe8"  # Code 1000, normal.
BLOCK_BYTES = 256 << 10
TICK_S = 0.005


def main() -> None:
    options = parse()
    if options.trades % options.per_frame:
        sys.exit("blast: --trades must be a multiple of --per-frame")
    frames = built(options.per_frame, options.symbols)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        listener.settimeout(30)
        client = listener.accept()[0]
    client.settimeout(300)
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate)
        client = context.wrap_socket(client, server_side=True)
    with client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        rest = shake_hands(client)
        await_subscriptions(client, rest, options.symbols)
        count = options.trades // options.per_frame
        if options.rate:
            send_paced(client, frames, count, options.rate / options.per_frame)
        else:
            send_all(client, frames, count)
        client.sendall(CLOSE)
        while client.recv(65536):
            pass


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trades", type=int, required=True)
    parser.add_argument("--per-frame", type=int, default=1)
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--rate", type=float, default=0, help="trades a second; 0: as fast as the client takes")
    parser.add_argument("--certificate", help="a PEM file with key and certificate: serve TLS")
    return parser.parse_args()


def built(per_frame: int, symbols: int) -> list[bytes]:
    """Make frames of `per_frame` trades in Finnhub's format that cycle through all symbols."""
    trades = [
        {
            "c": ["1", "12"] if number % 3 else None,
            "p": round(100 + number % 977 * 0.01, 2),
            "s": f"SYM{number % symbols:04}",
            "t": 1_700_000_000_000 + number,
            "v": number % 500 + 1,
        }
        for number in range(max(symbols, 500) * per_frame)
    ]
    groups = (trades[start : start + per_frame] for start in range(0, len(trades), per_frame))
    return [framed(json.dumps({"data": group, "type": "trade"}, separators=(",", ":")).encode()) for group in groups]


def framed(payload: bytes) -> bytes:
    if len(payload) < 126:
        return struct.pack("!BB", 0x81, len(payload)) + payload
    if len(payload) < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, len(payload)) + payload
    return struct.pack("!BBQ", 0x81, 127, len(payload)) + payload


def shake_hands(client: socket.socket) -> bytes:
    """Answer the upgrade; return what the client sent after it."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += client.recv(65536)
    head, _, rest = request.partition(b"\r\n\r\n")
    headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    key = next(value for name, value in headers.items() if name.lower() == b"sec-websocket-key")
    accept = base64.b64encode(hashlib.sha1(key.strip() + GUID).digest())
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    client.sendall(upgrade + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    return rest


def await_subscriptions(client: socket.socket, rest: bytes, symbols: int) -> None:
    heard: set[str] = set()
    while len(heard) < symbols:
        while (message := first_message(rest)) is None:
            rest += client.recv(65536)
        payload, rest = message
        if payload.startswith(b"{") and (asked := json.loads(payload)).get("type") == "subscribe":
            heard.add(asked["symbol"])


def first_message(data: bytes) -> tuple[bytes, bytes] | None:
    """Return a client's first frame, unmasked, and the bytes after it; None while it is incomplete."""
    if len(data) < 2:
        return None
    length, start = data[1] & 0x7F, 2
    if length == 126:
        length, start = int.from_bytes(data[2:4], "big"), 4
    mask, payload = data[start : start + 4], data[start + 4 : start + 4 + length]
    if len(payload) < length or len(mask) < 4:
        return None
    return bytes(byte ^ mask[at & 3] for at, byte in enumerate(payload)), data[start + 4 + length :]


def send_all(client: socket.socket, frames: list[bytes], count: int) -> None:
    for block in blocks(islice(cycle(frames), count)):
        client.sendall(block)


def send_paced(client: socket.socket, frames: list[bytes], count: int, frames_per_s: float) -> None:
    start, sent, source = time.monotonic(), 0, cycle(frames)
    while sent < count:
        due = min(count, int((time.monotonic() - start) * frames_per_s) + 1)
        client.sendall(b"".join(islice(source, due - sent)))
        sent = due
        time.sleep(TICK_S)


def blocks(frames: Iterator[bytes]) -> Iterator[bytes]:
    block = bytearray()
    for frame in frames:
        block += frame
        if len(block) >= BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    yield bytes(block)


if __name__ == "__main__":
    main()
