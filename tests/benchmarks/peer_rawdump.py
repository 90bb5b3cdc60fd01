"""The lower bound: websocket-client's handshake, then raw socket bytes go to a file, unread."""

import json
import sys
from pathlib import Path

import websocket

url, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
connection = websocket.create_connection(url, timeout=60)
for number in range(count):
    connection.send(json.dumps({"type": "subscribe", "symbol": f"SYM{number:04}"}))
with (folder / "all.raw").open("wb", buffering=0) as file:
    buffer = memoryview(bytearray(1 << 18))
    tail = b""
    while not tail.endswith(b"\x88\x02\x03\xe8") and (size := connection.sock.recv_into(buffer)):
        file.write(buffer[:size])
        tail = (tail + buffer[:size])[-4:]
connection.sock.close()
