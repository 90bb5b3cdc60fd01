"""The plain design: WebSocketApp, json, a queue and a thread per ticker, a file opened per trade."""

import csv
import json
import queue
import sys
import threading
import time
from pathlib import Path

import websocket

url, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
symbols = [f"SYM{number:04}" for number in range(count)]
queues: dict[str, queue.Queue] = {symbol: queue.Queue() for symbol in symbols}


def write(symbol: str) -> None:
    while (row := queues[symbol].get()) is not None:
        with (folder / f"{symbol}.csv").open("a", newline="") as file:
            csv.writer(file).writerow(row)


def on_open(app: websocket.WebSocketApp) -> None:
    for symbol in symbols:
        app.send(json.dumps({"type": "subscribe", "symbol": symbol}))


def on_message(app: websocket.WebSocketApp, message: str) -> None:
    event = json.loads(message)
    if event["type"] == "trade":
        for trade in event["data"]:
            conditions = ";".join(trade["c"] or ())
            queues[trade["s"]].put([time.time_ns(), trade["t"], trade["s"], trade["p"], trade["v"], conditions])


threads = [threading.Thread(target=write, args=(symbol,)) for symbol in symbols]
for thread in threads:
    thread.start()
websocket.WebSocketApp(url, on_open=on_open, on_message=on_message).run_forever()
for symbol in symbols:
    queues[symbol].put(None)
for thread in threads:
    thread.join()
