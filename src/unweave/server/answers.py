"""Answers: JSON with an ETag, gzipped where the client takes it; refusals in one line."""

import gzip
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

from ..base.jsontext import check_levels
from ..page.template import to_bytes


class StrictRequest(Request):
    """A request whose JSON is read strictly: no NaN, no half characters, nothing that cannot be written back."""

    async def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is not, or is nested too deep.
        """
        content = orjson.loads(await self.body())
        try:
            check_levels(content)
        except ValueError as error:
            raise orjson.JSONDecodeError(str(error), "", 0) from error
        return content


class StrictRoute(APIRoute):
    """A route that reads its requests strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of requests."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


GZIP_FROM = 2048
"""Bytes from which compressing is worth it."""
KEPT_BYTES = 256 << 20
"""Of finished answers, so that a second tab or a reload costs nothing."""


def answer(
    request: Request, body: bytes, media_type: str = "application/json", tag: str | None = None, **headers: str
) -> Response:
    """A body with its ETag, or 304 if the client has it already."""
    tag = tag or tag_of(body)
    headers |= {"ETag": f'"{tag}"', "Vary": "Accept-Encoding", "Cache-Control": "no-cache"}
    if has(request, tag):
        return Response(status_code=304, headers=headers)
    if len(body) >= GZIP_FROM and takes_gzip(request):
        body = gzip.compress(body, 1, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, media_type=media_type, headers=headers)


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """An error in one line, as JSON."""
    return Response(
        to_bytes({"error": " ".join(message.split()), **more}),
        status,
        media_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def tag_of(*parts: Any) -> str:
    """A short name for a content, or for all that a content depends on."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
    return digest.hexdigest()[:24]


def has(request: Request, tag: str) -> bool:
    """Whether the client says that it has this content."""
    given = request.headers.get("if-none-match", "")
    return given.strip() == "*" or tag in {part.strip().removeprefix("W/").strip('"') for part in given.split(",")}


def takes_gzip(request: Request) -> bool:
    """Whether the client accepts gzip (a quality of zero refuses it)."""
    for part in request.headers.get("accept-encoding", "").split(","):
        name, *options = (word.strip() for word in part.split(";"))
        if name == "gzip":
            return not any(option.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for option in options)
    return False


class Kept:
    """Finished large answers by their tag, plain and gzipped, the latest used kept."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[str, tuple[bytes, bytes]] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}

    def answer(self, request: Request, tag: str, make: Callable[[], bytes]) -> Response:
        """The answer of a tag, made by `make` once, however many ask at the same time."""
        headers = {"ETag": f'"{tag}"', "Vary": "Accept-Encoding", "Cache-Control": "no-cache"}
        if has(request, tag):
            return Response(status_code=304, headers=headers)
        with self._lock:
            making = self._making.setdefault(tag, threading.Lock())
        with making:
            found = self._bodies.get(tag)
            if found is None:
                body = make()
                found = (body, gzip.compress(body, 1, mtime=0))
                self._keep(tag, found)
        with self._lock:
            self._making.pop(tag, None)
        plain, packed = found
        if takes_gzip(request):
            return Response(packed, media_type="application/json", headers=headers | {"Content-Encoding": "gzip"})
        return Response(plain, media_type="application/json", headers=headers)

    def _keep(self, tag: str, found: tuple[bytes, bytes]) -> None:
        with self._lock:
            self._bodies[tag] = found
            while len(self._bodies) > 1 and sum(len(a) + len(b) for a, b in self._bodies.values()) > KEPT_BYTES:
                self._bodies.popitem(last=False)
