"""Lets in only those who may see the page: a pure ASGI middleware around everything, websockets included.

Host must be a name by which the page is served, which stops a foreign page that has its own name resolve to this
machine. Origin must be the page's own, which stops a foreign page that sends a user's cookie along. With a token, a
client shows it once, in a form or in the address, and has a cookie from then on.
"""

import asyncio
import hmac
import re
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEALTH = "/healthz"
COOKIE = "tape_access"
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.IGNORECASE)
_LONGEST_FORM = 4_096
# A guess costs this long.
_REFUSED_AFTER_S = 0.5
_FORM = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Tape</title><style>:root{{color-scheme:light dark}}body{{font:15px system-ui,sans-serif;display:grid;
place-content:center;min-height:90vh;gap:12px}}input,button{{font:inherit;padding:8px 12px;margin-top:6px}}</style>
<form method="post" action="{action}"><label>Token<br><input type="password" name="token" autofocus required
autocomplete="current-password"></label> <button>Open</button><p role="alert">{said}</p></form></html>"""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may see the page: the names by which it is served, the path before it, and the token, if one is needed."""

    hosts: tuple[str, ...]
    prefix: str = ""
    token: str | None = None


class Guard:
    """Refuses foreign requests and adds the headers that keep the page to itself."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Guard this app."""
        self.app, self._access = app, access
        # The cookie proves knowledge of the token without being it, also after a restart.
        self._ticket = hmac.new((access.token or "").encode(), b"may see the page", sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        self._place_below_prefix(scope)
        path = scope["path"].removeprefix(self._access.prefix)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if path == HEALTH and scope["type"] == "http":
            return await PlainTextResponse("ok\n")(scope, receive, send)
        host = headers.get("host", "")
        if (refusal := self._refusal(scope, headers, host)) is not None:
            return await _refuse(scope, receive, send, refusal)
        if self._access.token is not None and not self._is_known(headers):
            return await self._ask(scope, receive, send)
        return await self.app(scope, receive, _with_headers(send, host) if scope["type"] == "http" else send)

    def _place_below_prefix(self, scope: Scope) -> None:
        """Understand proxies that remove the prefix from the path and those that do not; trust none to name another."""
        prefix = self._access.prefix
        scope["headers"] = [each for each in scope["headers"] if each[0] != b"x-forwarded-prefix"]
        if not scope["path"].startswith(f"{prefix}/"):
            scope["path"] = prefix + ("/" if scope["path"] == prefix else scope["path"])
        scope["root_path"] = prefix

    def _refusal(self, scope: Scope, headers: dict[str, str], host: str) -> str | None:
        if not _HOST.fullmatch(host) or _name_of(f"//{host}") not in self._access.hosts:
            return "this page is not served by that name; name it with --allow-host"
        origin = headers.get("origin")
        if origin is None:
            may_lack_it = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
            return None if may_lack_it else "the request does not say which page it comes from"
        # Behind a proxy that replaces Host, the browser's own name for the page is the one that was allowed.
        is_own = urlsplit(origin).netloc == host
        is_allowed = _name_of(origin) in self._access.hosts and _name_of(origin) not in LOOPBACK
        return None if is_own or is_allowed else "the request comes from a foreign page"

    def _is_known(self, headers: dict[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._ticket.encode())

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._access.token or "").encode())

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Exchange a token for the cookie, or ask for it."""
        if scope["type"] == "websocket":
            return await _refuse(scope, receive, send, "a token is needed; open the page to give it")
        query = parse_qsl(scope["query_string"].decode("latin-1"))
        given = dict(query).get("token")
        if scope["method"] == "POST":
            given = dict(parse_qsl(await _form(receive))).get("token", "")
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        address = scope["path"] + (f"?{rest}" if rest else "")
        if given is not None and self._is_token(given):
            # The redirect keeps the token out of the browser's history.
            response: Response = RedirectResponse(address, 303)
            response.set_cookie(
                COOKIE, self._ticket, path=self._access.prefix or "/", httponly=True, samesite="strict",
                secure=scope["scheme"] == "https",
            )  # fmt: skip
        else:
            if given is not None:
                await asyncio.sleep(_REFUSED_AFTER_S)
            said = "" if given is None else "That is not the token."
            response = HTMLResponse(_FORM.format(action=escape(address), said=said), 401)
        return await response(scope, receive, _with_headers(send, ""))


def _name_of(address: str) -> str:
    try:
        name = urlsplit(address).hostname
    except ValueError:
        return ""
    return name or ""


async def _form(receive: Receive) -> str:
    body = b""
    while len(body) <= _LONGEST_FORM:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body.decode("latin-1")
    return ""


async def _refuse(scope: Scope, receive: Receive, send: Send, why: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        return await send({"type": "websocket.close", "code": 1008})
    return await PlainTextResponse(f"{why}\n", 403)(scope, receive, send)


def _with_headers(send: Send, host: str) -> Send:
    """Add the headers that let the page talk to this server alone. Vue compiles templates, so it needs eval."""
    sockets = f" ws://{host} wss://{host}" if host else ""
    policy = (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        f"img-src 'self' data:; font-src 'self' data:; connect-src 'self'{sockets}; object-src 'none'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    added = [
        (b"content-security-policy", policy.encode("latin-1")),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return sent
