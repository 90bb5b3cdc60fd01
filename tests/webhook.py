"""Receivers of webhooks and of mail on loopback, which keep what they were sent."""

import json
import threading
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any


class Receiver:
    """Takes every POST; `received` has the JSON bodies in order."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                received.append(json.loads(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/a-secret-path"

    def subjects(self) -> list[str]:
        """The subjects of the alarms so far; Apprise calls them titles."""
        return [str(each.get("subject", each.get("title"))) for each in self.received]

    def __enter__(self) -> "Receiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class MailBox:
    """An SMTP server on loopback, without encryption or passwords; `received` has the messages in order."""

    def __init__(self) -> None:
        self.received: list[EmailMessage] = []
        received = self.received

        class Handler(StreamRequestHandler):
            def say(self, line: str) -> None:
                self.wfile.write(f"{line}\r\n".encode())

            def handle(self) -> None:
                self.say("220 a mail box")
                for line in self.rfile:
                    word = line.split(b" ")[0].strip().upper()
                    if word == b"DATA":
                        self.say("354 go on")
                        lines = iter(self.rfile.readline, b".\r\n")
                        message = message_from_bytes(b"".join(lines), policy=default)
                        assert isinstance(message, EmailMessage)
                        received.append(message)
                    self.say("221 bye" if word == b"QUIT" else "250 done")
                    if word == b"QUIT":
                        return

        self._server = ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """The address as Apprise takes it."""
        port = self._server.server_address[1]
        return f"mailto://127.0.0.1:{port}?from=tape@example.org&to=desk@example.org&mode=insecure"

    def __enter__(self) -> "MailBox":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
