"""Nothing is lost if the disk fills at any byte of any stage, and the next run finishes the work."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.compress.parquet import compress
from tasks.errors import TransientError
from tasks.merge.day import merge
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.validate.schema import Limits
from tasks.validate.split import split

SealBatch = Callable[..., BatchName]
T = 1_764_000_000_000_000_000
DATE = "2026-11-24"

# RLIMIT_FSIZE stops a write at that byte of any file, as a full disk does; that it is another errno is all the same.
STAGE = """
import os, resource, signal, sys
from pathlib import Path
from tasks.archive.sorting import SortLimits
from tasks.records.names import BatchName
from tasks.compress.parquet import compress
from tasks.errors import TransientError
from tasks.archive.encodings import Encoding
from tasks.merge.day import merge
from tasks.merge.written import MergeLimits
from tasks.storage.store import Store
from tasks.validate.split import Limits, split

root, name, stage = Path(sys.argv[1]), BatchName.parse(sys.argv[2]), sys.argv[3]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in [int(text) for text in sys.argv[4:]]:
    child = os.fork()
    if child == 0:
        os.system(f"cp -r {root}/start {root}/{limit}")
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        store = Store(root / str(limit))
        work = {
            "validate": lambda: split(store, name, Limits(None, None)),
            "compress": lambda: compress(store, name),
            "compress csv.gz": lambda: compress(store, name, Encoding("plain", "csv.gz")),
            "compress csv.zst": lambda: compress(store, name, Encoding("plain", "csv.zst")),
            "compress max": lambda: compress(store, name, Encoding("max")),
            "merge": lambda: merge(store, "finnhub", "2026-11-24"),
            "merge laid aside": lambda: merge(
                store, "finnhub", "2026-11-24", MergeLimits(sorting=SortLimits(900, 900))
            ),
        }[stage]
        try:
            work()
        except TransientError as error:
            said = "cannot be read or written" in str(error) and "make room" in str(error) and str(root) in str(error)
            os._exit(3 if said and "\\n" not in str(error) else 4)
        except BaseException as error:
            print(type(error), error, file=sys.stderr)
            os._exit(5)
        os._exit(0)
    print(limit, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def files(store: Store) -> dict[str, bytes]:
    """Every file of the data folder except locks."""
    found = {str(path.relative_to(store.root)): path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    return {path: content for path, content in found.items() if not path.startswith("locks/")}


def run_stage(store: Store, name: BatchName, stage: str) -> None:
    """Run the stage with enough space and the default encoding."""
    if stage == "validate":
        split(store, name, Limits(None, None))
    elif stage.startswith("merge"):
        merge(store, "finnhub", DATE)
    else:
        compress(store, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    ["validate", "compress", "compress csv.gz", "compress csv.zst", "compress max", "merge", "merge laid aside"],
)
def test_a_full_disk(store: Store, sealed_batch: SealBatch, tmp_path: Path, stage: str) -> None:
    """On a disk full at any byte, a stage reports it and removes no input; with space again it finishes normally."""
    lines = [b"1,%d,%d,%d,A%d,%d.5,%d,1;2\n" % (n, T + n * 7, T, n % 5, n % 90 + 1, n % 7) for n in range(1, 3_001)]
    lines[10] = b"rubbish\n"
    name = sealed_batch(lines, symbols=[f"A{n}" for n in range(5)])
    if stage != "validate":
        split(store, name, Limits(None, None))
    if stage.startswith("merge"):
        compress(store, name)
    root = tmp_path / "full"
    root.mkdir()
    store.root.rename(root / "start")
    limits = ["1", "100", "2000", "9000", "20000", "60000", "100000000"]
    environment = {**os.environ, "POLARS_MAX_THREADS": "1", "ARROW_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", STAGE, str(root), str(name), stage, *limits],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    ended = dict(line.split() for line in run.stdout.splitlines())
    assert set(ended.values()) == {"0", "3"}, run.stderr
    assert (ended["1"], ended["100000000"]) == ("3", "0")
    start = files(Store(root / "start"))
    ends = []
    for limit, code in ended.items():
        again = Store(root / limit)
        if code == "3":
            left = files(again)
            assert start.items() <= left.items()
            assert not any(path.endswith((".manifest.json", ".day.json")) for path in left.keys() - start.keys())
            run_stage(again, name, stage)
            ends.append(files(again))
    with_room = Store(root / "start")
    run_stage(with_room, name, stage)
    assert ends == [files(with_room)] * len(ends)


def test_what_the_error_says(store: Store, sealed_batch: SealBatch) -> None:
    """An unwritable folder raises a one-line transient error with the place and what to do."""
    name = sealed_batch([b"1,1,%d,%d,A,1,1,\n" % (T, T)])
    (store.validated / f".{name.validated}.tmp").mkdir()
    with pytest.raises(TransientError, match=r"validated.*cannot be read or written .*run `tape archive`"):
        split(store, name, Limits(None, None))
