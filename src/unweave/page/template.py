"""The built page: its files, and its document as served or whole in one file."""

import base64
import hashlib
import html
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ..base.jsontext import encodable
from ..errors import FileError

STATIC = Path(__file__).parent / "static"
CONTENT_TYPES = {".js": "text/javascript", ".css": "text/css", ".txt": "text/plain", ".map": "application/json"}
HEAD, BODY = "<!--unweave-head-->", "<!--unweave-body-->"


def static_file(name: str) -> tuple[bytes, str] | None:
    """A file of the page and its content type; None if there is no such file (names are compared, never joined to a
    path)."""
    for path in STATIC.iterdir():
        if path.name == name and path.suffix in CONTENT_TYPES and path.is_file():
            return path.read_bytes(), CONTENT_TYPES[path.suffix]
    return None


def served_page(token: str) -> bytes:
    """The page's document as the server gives it, with the token for writes."""
    head = (
        f'<meta name="unweave-token" content="{html.escape(token)}"><link rel="icon" href="data:,"><link '
        f'rel="stylesheet" href="/static/app.css">'
    )
    return _filled(head, '<script src="/static/app.js"></script>').encode()


def whole_page(title: str, data: bytes) -> bytes:
    """One document with everything inside: styles, script and data; opens from disk, offline.

    Args:
        data: JSON; `<` is escaped here, so that no text in it can end the script element it stands in.
    """
    safe = data.decode().replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    style, script = _text("app.css"), re.sub(r"<(?=/script|!--)", r"<\\", _text("app.js"), flags=re.IGNORECASE)
    if "</style" in style.lower():
        raise FileError("app.css ends its own style element; build the page again")
    policy = (
        f"default-src 'none'; img-src data: blob:; font-src data:; style-src {_allowed(style)}; script-src "
        f"{_allowed(script)}"
    )
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{style}</style>'
    document = _filled(
        head, f'<script type="application/json" id="unweave-data">{safe}</script><script>{script}</script>'
    )
    return re.sub(
        r"<title>.*?</title>", lambda _: f"<title>{html.escape(title)}</title>", document, count=1, flags=re.DOTALL
    ).encode()


def _allowed(text: str) -> str:
    """The name by which a content policy allows one inline script or style, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _filled(head: str, body: str) -> str:
    return _text("index.html").replace(HEAD, head, 1).replace(BODY, body, 1)


def _text(name: str) -> str:
    try:
        return (STATIC / name).read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"the page is not built: {name} is missing from {STATIC}; install unweave again") from error


def to_bytes(content: Any) -> bytes:
    """JSON; NumPy arrays as lists, numbers that are not finite as null, halves of characters as U+FFFD."""
    try:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:  # a half of a character, or a number of more than 64 bits
        return json.dumps(_plain(content), ensure_ascii=False, separators=(",", ":")).encode()


def _plain(content: Any) -> Any:
    """The same in what the standard library writes; slow."""
    match content:
        case np.ndarray():
            return _plain(content.tolist())
        case dict():
            return {encodable(str(key)): _plain(value) for key, value in content.items()}
        case list() | tuple():
            return [_plain(value) for value in content]
        case float():
            return content if math.isfinite(content) else None
        case _:
            return encodable(content)
