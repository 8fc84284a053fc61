"""A hub on this machine: repositories as folders, with the addresses, headers and refusals of the real one."""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "c0ffee" + "0" * 34


@dataclass
class FakeHub:
    """What is there, how it behaves, and what was asked of it."""

    root: Path
    gated: set[str] = field(default_factory=set)
    moved: dict[str, str] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    """Files of which half is sent, once."""
    busy: int = 0
    """Requests that are answered with 429 before any is served."""
    down: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    server: Any = None

    def start(self) -> str:
        """Serve; the address."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                answer(hub, self, body=False)

            def do_GET(self):
                answer(hub, self, body=True)

            def log_message(self, *args):
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def files_asked(self) -> list[str]:
        """The files whose content was asked for, in order."""
        return [
            path.split("/resolve/")[1].split("/", 1)[1]
            for verb, path in self.asked
            if verb == "GET" and "/resolve/" in path
        ]

    def repositories_asked(self) -> list[str]:
        """The repositories of which content was asked for, in order."""
        return [
            path.split("/resolve/")[0].strip("/") for verb, path in self.asked if verb == "GET" and "/resolve/" in path
        ]


def answer(hub: FakeHub, request: Any, *, body: bool) -> None:
    path = request.path.partition("?")[0]
    hub.asked.append((request.command, path))
    if hub.down:
        return send(request, 503, b"down", body=body)
    if hub.busy > 0:
        hub.busy -= 1
        return send(request, 429, b"too many requests", {"Retry-After": "0"}, body=body)
    match = re.fullmatch(r"/(?:api/models/)?([\w.-]+/[\w.-]+)(?:/(revision|tree|resolve)/([^/]+)(?:/(.*))?)?", path)
    if match is None:
        return send(request, 404, b"no such address", body=body)
    repository, what, revision, name = match[1], match[2], match[3] or "main", match[4]
    if repository in hub.moved:
        return send(request, 307, b"", {"Location": path.replace(repository, hub.moved[repository])}, body=body)
    folder = hub.root / repository
    if not folder.is_dir():
        return refuse(request, 404, "RepoNotFound", body)
    if revision not in ("main", COMMIT):
        return refuse(request, 404, "RevisionNotFound", body)
    files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    if what == "tree":
        rows = [{"type": "file", "path": n, "size": p.stat().st_size, "oid": digest(p)} for n, p in files.items()]
        return send(request, 200, json.dumps(rows).encode(), {"Content-Type": "application/json"}, body=body)
    if what != "resolve":
        siblings = [{"rfilename": n, "size": p.stat().st_size, "blobId": digest(p)} for n, p in files.items()]
        said = {"_id": "1", "id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}
        said |= {"tags": ["license:llama3.2"], "gated": "manual" if repository in hub.gated else False}
        return send(request, 200, json.dumps(said).encode(), {"Content-Type": "application/json"}, body=body)
    if repository in hub.gated:
        return refuse(request, 403, "GatedRepo", body)
    if name not in files:
        return refuse(request, 404, "EntryNotFound", body)
    content = files[name].read_bytes()
    headers = {"ETag": f'"{digest(files[name])}"', "X-Repo-Commit": COMMIT, "Content-Type": "application/octet-stream"}
    if body and name in hub.cut:
        hub.cut.discard(name)
        request.send_response(200)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(content[: len(content) // 2])
        request.close_connection = True
        return None
    return send(request, 200, content, headers, body=body)


def refuse(request: Any, status: int, code: str, body: bool) -> None:
    send(request, status, code.encode(), {"X-Error-Code": code, "X-Error-Message": code}, body=body)


def send(request: Any, status: int, content: bytes, headers: dict[str, str] | None = None, *, body: bool) -> None:
    request.send_response(status)
    for key, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
        request.send_header(key, value)
    request.end_headers()
    if body:
        request.wfile.write(content)


def digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
