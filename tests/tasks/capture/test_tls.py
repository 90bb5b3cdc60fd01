"""Over TLS the feed's faults end as they do without it, and an untrusted certificate is reported clearly."""

import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from certificates import tls_of
from faults import (
    PING,
    Accept,
    Close,
    Connection,
    Drop,
    Frame,
    Raw,
    Reset,
    Send,
    Signal,
    StartServer,
    Subscribed,
)
from recording import (
    FIN,
    Answered,
    Babble,
    StartSession,
    assert_all_there,
    assert_gaps_between,
    trades,
)

from tasks.capture.feed import connect
from tasks.errors import TransientError
from tasks.storage.store import Store


def test_tls_with_an_authority_of_ones_own(
    store: Store, fault_server: StartServer, session: StartSession, certificates: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Over TLS the same faults end the same way: FIN without a closing alert, RST, a torn message, a close, a stop."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["ca"]))
    server = fault_server(
        [Subscribed("A"), Send(trades(2000)), Answered(), Send(trades(9), cut_after=99), Drop()],
        [Subscribed("A"), Send(trades(3, 2000)), Answered(), Reset()],
        [Subscribed("A"), Send(trades(3, 2003), fragments=5, between=[Frame(PING, b"x")], slowly=9), Close(1012)],
        [Subscribed("A"), Babble(0.001, per_message=300)],
        tls=tls_of(certificates),
    )
    recording = session(server.url)
    recording.when(lambda status: status.connection == 4 and status.trades > 3000)
    record = recording.end()
    rows = assert_all_there(store, record, server)
    # A RST may come as TLS's own alert before it.
    broke = record.gaps[1].reason
    assert broke.startswith("the connection broke: ")
    assert_gaps_between(rows, record, [FIN, broke, "the feed closed the connection with code 1012"])


def test_an_authority_that_is_not_trusted_is_said_clearly_and_without_the_address(
    fault_server: StartServer, session: StartSession, certificates: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrusted certificate does not end the session: it is retried, and the gap says what was wrong."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["other_ca"]))
    server = fault_server(tls=tls_of(certificates))
    recording = session(server.url)
    gap = recording.when(lambda status: status.open_gaps)[0]
    assert gap.reason == (
        "no connection: the TLS certificate was not accepted (unable to get local issuer certificate)"
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["ca"]))
    plain = fault_server(then=[Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Drop(), Accept()])
    no_tls = session(plain.url.replace("ws://127.0.0.1", "wss://localhost"))
    assert "TLS failed" in no_tls.when(lambda status: status.open_gaps)[0].reason
    for each in (recording, no_tls):
        assert "localhost" not in (each.end().gaps[0].reason)


@dataclass(frozen=True, slots=True)
class RawBelowTls:
    """A step: write content through TLS, then garbage to the socket below it."""

    content: bytes
    garbage: bytes

    def run(self, connection: Connection) -> None:
        connection.write(self.content)
        with socket.socket(fileno=os.dup(connection._socket.fileno())) as below:
            below.sendall(self.garbage)


def test_what_was_decrypted_before_an_error_is_not_thrown_away(
    fault_server: StartServer, certificates: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two whole TLS records, then garbage below TLS, in one read: their content is returned, then the error."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["ca"]))
    sent = threading.Event()
    server = fault_server([RawBelowTls(b"y" * (20 << 10), b"garbage" * 10), Signal(sent)], tls=tls_of(certificates))
    connection = connect(server.url, 5.0)
    assert sent.wait(5)
    assert connection.read(2.0) == b"y" * (20 << 10)
    with pytest.raises(TransientError, match="the connection broke"):
        connection.read(2.0)
    connection.close()
