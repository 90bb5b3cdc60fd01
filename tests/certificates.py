"""Makes the certificates of a test's TLS server, and the authorities that sign them, with openssl."""

import ssl
import subprocess
from pathlib import Path

# A name that is not this machine's, for what must not be taken for loopback; nobody looks it up.
ELSEWHERE = "feed.invalid"


def make_certificates(folder: Path) -> dict[str, Path]:
    """Two authorities, `ca` and `other_ca`, and from the first a certificate for localhost and ELSEWHERE: `server`.

    Its key is `key`. Needs openssl.
    """
    made = {name: folder / f"{name}.pem" for name in ("key", "server", "ca_key", "ca", "other_ca")}
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    name = ("-addext", f"subjectAltName=DNS:localhost,DNS:{ELSEWHERE}")
    for arguments in (
        ("-x509", *curve, "-keyout", made["ca_key"], "-out", made["ca"], "-subj", "/CN=our own"),
        ("-x509", *curve, "-keyout", folder / "other", "-out", made["other_ca"], "-subj", "/CN=another"),
        ("-x509", *curve, "-keyout", made["key"], "-out", made["server"], "-subj", "/CN=localhost", *name,
         "-addext", "basicConstraints=critical,CA:FALSE", "-CA", made["ca"], "-CAkey", made["ca_key"]),
    ):  # fmt: skip
        subprocess.run(["openssl", "req", *arguments], check=True, capture_output=True)
    return made


def tls_of(certificates: dict[str, Path]) -> ssl.SSLContext:
    """A server's TLS with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["server"], certificates["key"])
    return context
