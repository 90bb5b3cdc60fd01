"""A careful pipeline on WebSocketApp: one queue, one writer, msgspec, and an f-string."""

import json
import queue
import sys
import threading
import time
from pathlib import Path

import msgspec
import websocket


class Trade(msgspec.Struct):
    s: str
    p: float
    t: int
    v: float
    c: list[str] | None = None


class Message(msgspec.Struct):
    type: str
    data: list[Trade] = []


url, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
waiting: queue.SimpleQueue = queue.SimpleQueue()


def write() -> None:
    decode = msgspec.json.Decoder(Message).decode
    with (folder / "all.csv").open("w", buffering=1 << 20) as file:
        while (item := waiting.get()) is not None:
            stamp, payload = item
            file.write(
                "".join([f"{stamp},{t.t},{t.s},{t.p},{t.v},{';'.join(t.c or ())}\n" for t in decode(payload).data])
            )


def on_open(app: websocket.WebSocketApp) -> None:
    for number in range(count):
        app.send(json.dumps({"type": "subscribe", "symbol": f"SYM{number:04}"}))


def on_message(app: websocket.WebSocketApp, message: bytes) -> None:
    waiting.put((time.time_ns(), message))


writer = threading.Thread(target=write)
writer.start()
websocket.WebSocketApp(url, on_open=on_open, on_message=on_message).run_forever(skip_utf8_validation=True)
waiting.put(None)
writer.join()
