"""Checks environment variables that are not ours, before anything starts.

These are the variables for proxies, certificates, and boto3. A wrong one would otherwise look like a network that is
down, or like a traceback from Prefect.
"""

import ssl
import threading
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path

from flows.settings import ENV_FILE, Settings, surroundings
from tasks.address import address_of
from tasks.errors import SettingsError, TerminalError
from tasks.proxies import proxy_for

# boto3 may fetch credentials over the network; if that takes too long, it is repeated when they are needed.
_WITHIN_S = 5.0


def check_feed(settings: Settings) -> None:
    """Raise SettingsError, naming the variable, if the feed cannot be reached with it. Does not need Prefect."""
    check_tls()
    target = address_of(settings.feed_address)
    proxy_for(target)
    if target.is_secure and not _authorities():
        raise SettingsError(
            "SSL_CERT_FILE: neither this nor SSL_CERT_DIR has a CA certificate; name a file that does, or "
            "unset both and install the system's (ca-certificates)"
        )


def exposures(settings: Settings) -> list[str]:
    """Return what is exposed, one line each with what to do; none of it prevents recording."""
    found, feed, env_file = [], address_of(settings.feed_address), Path(ENV_FILE)
    if not feed.is_secure and not feed.is_loopback:
        found.append(f"TAPE_FEED_URL: {feed} is reached without TLS, so anyone on the way can read the key; use wss://")
    for path, allowed in ((env_file, 0), (settings.data_dir, 0o050 if settings.data_access == "group" else 0)):
        with suppress(OSError):
            if path.stat().st_mode & 0o077 & ~allowed:
                advice = f"run `chmod {'g-w,o=' if allowed else 'go='} {path}`"
                found.append(f"{path}: is accessible to other users of this machine; {advice}")
    return found


def check_tls() -> None:
    """Raise SettingsError if a TLS variable names an unusable file: importing Prefect would fail."""
    context, environment = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), surroundings()
    for name, use in (("SSL_CERT_FILE", context.load_verify_locations), ("SSLKEYLOGFILE", _write_keys_to)):
        try:
            if environment.get(name):
                use(environment[name])
        except OSError as error:  # ssl.SSLError is one.
            why = error.strerror or type(error).__name__
            raise SettingsError(f"{name}: {environment[name]} cannot be used ({why}); correct or unset it") from error


def _write_keys_to(path: str) -> None:
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).keylog_filename = path


def _authorities() -> bool:
    """Whether there is any CA certificate to verify a feed with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    folder = ssl.get_default_verify_paths().capath
    return bool(context.get_ca_certs()) or (folder is not None and any(Path(folder).iterdir()))


def check_bucket_of(settings: Settings) -> None:
    """Raise SettingsError, naming the variable, if the configured bucket cannot be opened with it.

    This is for users at a terminal: an unattended session is recorded anyway, and uploaded once the variable is fixed.
    """
    from flows.bucket import bucket_of
    from tasks.upload.probe import check_bucket

    bucket = bucket_of(settings)
    if bucket is None:
        return
    checked: Future[None] = Future()

    def check() -> None:
        try:
            check_bucket(bucket)
        except BaseException as error:
            checked.set_exception(error)
        else:
            checked.set_result(None)

    threading.Thread(target=check, name="check bucket", daemon=True).start()
    wait([checked], _WITHIN_S)
    error = checked.exception() if checked.done() else None
    if isinstance(error, TerminalError):
        raise SettingsError(str(error)) from error
    if error is not None:
        raise error
