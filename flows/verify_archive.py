"""Verifies the archive: every law from the files alone, and the bucket, if one is set, against its receipts."""

from prefect import flow, get_run_logger

from flows.bucket import bucket_of
from flows.runs import independent_of_api, note_run
from flows.settings import settings_to_write
from tasks.errors import TerminalError
from tasks.storage.store import Store
from tasks.upload.audit import audit
from tasks.verify.laws import verify

_LINES_TOLD = 20


class NotVerified(TerminalError):
    """Raised if a law is broken or the bucket differs, with a line for each of the first problems."""


@flow(name="verify-archive")
@independent_of_api
def verify_archive() -> None:
    """Recompute every law and compare the bucket with its receipts. Raises NotVerified if anything is wrong."""
    settings = settings_to_write()
    store, log = Store(settings.data_dir).prepare(), get_run_logger()
    note_run(store)
    verdict = verify(store)
    wrong = [f"{each.law}: {each.file}: {each.message}" for each in verdict.broken]
    log.info("%d sessions, %d batches, %d trades verified", verdict.sessions, verdict.batches, verdict.trades)
    bucket = bucket_of(settings)
    if bucket is not None:
        remote = audit(store, bucket)
        wrong += [f"{each.kind}: {each.key}: {each.message}" for each in remote.wrong]
        log.info("%s: %d objects, %d bytes compared", remote.bucket, remote.objects, remote.bytes)
    if wrong:
        for line in wrong:
            log.error("%s", line)
        more = f"\n… and {len(wrong) - _LINES_TOLD} more" if len(wrong) > _LINES_TOLD else ""
        raise NotVerified("\n".join(wrong[:_LINES_TOLD]) + more)
