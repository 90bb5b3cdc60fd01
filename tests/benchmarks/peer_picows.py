"""A compiled client: picows on uvloop, one queue, one writer, msgspec, and an f-string."""

import asyncio
import json
import queue
import sys
import threading
import time
from pathlib import Path

import msgspec
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect


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


class Listener(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        for number in range(count):
            transport.send(WSMsgType.TEXT, json.dumps({"type": "subscribe", "symbol": f"SYM{number:04}"}).encode())

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            waiting.put((time.time_ns(), frame.get_payload_as_bytes()))
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()


async def record() -> None:
    transport, _ = await ws_connect(Listener, url)
    await transport.wait_disconnected()


writer = threading.Thread(target=write)
writer.start()
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(record())
waiting.put(None)
writer.join()
