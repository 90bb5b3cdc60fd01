"""The retention rule as Prefect sees it."""

import shutil
import time
from collections import Counter
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.retain.retain import retain as retain_files
from tasks.retain.rule import Gone as Gone
from tasks.retain.rule import Kept as Kept
from tasks.retain.rule import Remote as Remote
from tasks.retain.rule import Retained as Retained
from tasks.retain.rule import Rule as Rule
from tasks.store import Store


@task(name="retain", cache_policy=NO_CACHE, persist_result=False)
def retain(data_dir: Path, rule: Rule, remote: Remote | None) -> Retained:
    """Remove what the rule lets go, and log what was removed and what is kept though it was due."""
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
