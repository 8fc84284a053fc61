"""Who may ask: this machine's own names, this page's own origin, and for every write the token of this start."""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect

from ..page.template import to_bytes

HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
"""This machine's own names, and nothing that a reader of addresses would have to interpret."""
READING = frozenset({"GET", "HEAD"})
TOKEN_HEADER = "X-Unweave-Token"
MOST_UPLOAD = 256 << 20
"""Bytes of an uploaded graph."""
MOST_BODY = 8 << 20
"""Bytes of any other body."""
SECONDS_OF_SILENCE = 20.0
"""After which a request that does not go on is given up."""
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "font-src 'self'; "
    "worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(32)


def guarded(app: App, token: str) -> App:
    """The application behind its checks; every answer carries the security headers.

    Host names are checked because a page elsewhere can point its own name at 127.0.0.1 (DNS rebinding); the token and
    the origin because any page can send a form to a known address.
    """

    async def serve(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        most = MOST_UPLOAD if scope["path"] == "/api/graphs" else MOST_BODY
        seen, over, started, whole, silent = 0, False, False, False, False

        async def secured(message: Message) -> None:
            nonlocal started
            if started and (over or silent):
                return
            refused, started = not started and (over or silent), True
            await (give_up() if refused else send(_with_headers(message)))

        async def give_up() -> None:
            said = _too_large(most) if over else f"the request did not go on for {SECONDS_OF_SILENCE:.0f} seconds"
            await _refuse(send, 413 if over else 408, said)

        async def limited() -> Message:
            nonlocal seen, over, whole, silent
            try:
                message = await asyncio.wait_for(receive(), None if whole else SECONDS_OF_SILENCE)
            except TimeoutError:
                silent = True
                return {"type": "http.disconnect"}
            seen += len(message.get("body", b""))
            whole = whole or not message.get("more_body", False)
            over = over or seen > most
            return {"type": "http.disconnect"} if over else message

        problem = _problem(scope["method"], headers, token, most)
        if problem is not None:
            await _refuse(send, *problem)
            return
        try:
            await app(scope, limited, secured)
        except ClientDisconnect:
            if (over or silent) and not started:
                await give_up()

    return serve


def _problem(method: str, headers: Headers, token: str, most: int) -> tuple[int, str] | None:
    hosts = headers.getlist("host")
    host = hosts[0] if len(hosts) == 1 else ""
    if not HOST.fullmatch(host):
        return 403, f"host {host[:80]!r} is not this server; open it as 127.0.0.1 or localhost"
    length = headers.get("content-length", "0")
    if not length.isdecimal():
        return 400, "the length of the request is not a number"
    if method in READING:
        return None
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return 403, f"requests from {origin[:80]!r} are refused; only this server's own page may write"
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return 403, "requests from another site are refused; only this server's own page may write"
    if not secrets.compare_digest(headers.get(TOKEN_HEADER, "").encode(), token.encode()):
        return 403, f"the header {TOKEN_HEADER} is missing or from an earlier start; reload the page"
    if int(length) > most:
        return 413, _too_large(most)
    return None


def _too_large(most: int) -> str:
    return f"the request is larger than {most >> 20} MiB"


def _with_headers(message: Message) -> Message:
    if message["type"] == "http.response.start":
        answered = MutableHeaders(scope=message)
        for name, value in HEADERS.items():
            answered[name] = value
    return message


async def _refuse(send: Send, status: int, message: str) -> None:
    body = to_bytes({"error": message})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send(_with_headers({"type": "http.response.start", "status": status, "headers": headers}))
    await send({"type": "http.response.body", "body": body})
