"""The Prefect task that applies the retention rule."""

import shutil
import time
from collections import Counter
from pathlib import Path

from prefect import get_run_logger, task

from tasks.retain.retain import retain as retain_files
from tasks.retain.rule import Remote, Retained, Rule
from tasks.storage.store import Store
from tasks.task_options import ONCE


@task(name="retain", **ONCE)
def retain(data_dir: Path, rule: Rule, remote: Remote | None) -> Retained:
    """Remove files that are due by the rule; log what was removed, and what is due but kept."""
    log = get_run_logger()
    found = retain_files(Store(data_dir), rule, time.time_ns, lambda: shutil.disk_usage(data_dir).free, remote)
    if found.removed:
        log.info("%d files were removed, %s bytes, each held elsewhere", len(found.removed), f"{found.bytes:,}")
    for each in found.kept:
        if each.wrong:
            log.error("%s: kept: %s", each.file, each.reason)
    for reason, count in Counter(each.reason for each in found.kept if not each.wrong).items():
        log.info("%d due files are kept: %s", count, reason)
    return found
