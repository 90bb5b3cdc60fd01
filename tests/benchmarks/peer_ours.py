"""Our own capture: the recorder's session with journal, checksums, syncs, seals, and status file."""

import os
import sys
import threading
import time
from pathlib import Path

from tasks.capture.request import CaptureRequest, save_request
from tasks.capture.session import Session
from tasks.records.status import read_status

url, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
base, _, token = url.partition("?token=")
now_ns = time.time_ns()
request = CaptureRequest(
    session="20260102T150405Z-00c0ffee",
    data_dir=folder,
    feed_url=base,
    symbols=tuple(f"SYM{number:04}" for number in range(count)),
    started_ns=now_ns,
    deadline_ns=now_ns + 600 * 10**9,
    batch_bytes=1 << 30,
)
save_request(request)
session = Session(request, token)


def stop_when_the_server_has_closed() -> None:
    while (status := read_status(request.folder)) is None or status.state != "reconnecting":
        time.sleep(0.5)
    session.stop()


if "BENCH_STALL_S" in os.environ:
    # A disk that stalls: the tenth write takes that long.
    write, countdown = os.write, iter(range(10, -(10**9), -1))

    def stalling_write(descriptor: int, content: bytes) -> int:
        if next(countdown) == 0:
            time.sleep(float(os.environ["BENCH_STALL_S"]))
        return write(descriptor, content)

    os.write = stalling_write

threading.Thread(target=stop_when_the_server_has_closed, daemon=True).start()
record = session.run()
if record.frames_lost or record.outcome != "stopped":
    sys.exit(f"{record.outcome}: {record.error}")
