"""What the list says of each graph: read from the head of a file, and kept for the next start."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ..base.files import cache_folder, write_atomically
from ..base.jsontext import encodable, parse_json
from ..errors import FileError
from ..graphs.graph import Graph
from ..graphs.nodes import NodeKind
from ..version import __version__

logger = logging.getLogger(__name__)

MOST_KEPT, MOST_BYTES = 10_000, 16 << 20
"""How many summaries the file holds, and how large it gets; those used last stay."""
WORTH_KEEPING = 0.1
"""Seconds of reading from which on the file is written: a folder read in a moment needs none."""
_TEXTS = ("title", "prompt", "model", "transcoders", "created", "kind", "units", "answer")
_COUNTS = ("nodes", "edges", "features")
_FACTS = {"prompt", "tokens", "model", "transcoders", "created", "scores", "kind", "units", "logit_labels"}
"""What is read of a provenance."""


@dataclass
class Summaries:
    """Summaries by `path:inode:size:time of change`, kept in one file of the user's cache folder."""

    file: Path = field(default_factory=lambda: cache_folder() / "graph-summaries.json")
    worth: float = WORTH_KEEPING
    _known: dict[str, dict[str, Any]] | None = None
    _fresh: dict[str, dict[str, Any]] = field(default_factory=dict)
    _seconds: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, key: str, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The summary under a key, read only if none is kept."""
        with self._lock:
            if self._known is None:
                self._known = _read(self.file)
            found = self._known.get(key)
            if found is not None:
                self._fresh[key] = found
                return found
        begin = time.perf_counter()
        found = encodable(read())
        with self._lock:
            self._known[key] = self._fresh[key] = found
            self._seconds += time.perf_counter() - begin
        return found

    def keep(self) -> None:
        """Write what was read, if reading it took long; a file that cannot be written costs only time."""
        with self._lock:
            if self._seconds < self.worth:
                return
            self._seconds = 0.0
            entries = _read(self.file)  # what another server wrote meanwhile stays
            for key, found in self._fresh.items():
                entries.pop(key, None)
                entries[key] = found
            with suppress(FileError, OSError):
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self.file.touch(0o600)  # prompts are the user's own; what replaces a file keeps its permissions
                write_atomically(self.file, lambda name: Path(name).write_bytes(_written(entries)))


def _written(entries: dict[str, dict[str, Any]]) -> bytes:
    """The file's content: the last entries, as many as fit."""
    lines, size = [], 0
    for item in list(entries.items())[::-1][:MOST_KEPT]:
        lines.append(orjson.dumps(item))
        size += len(lines[-1]) + 1
        if size > MOST_BYTES:
            lines.pop()
            break
    return b'{"version":%s,"entries":[\n%s\n]}' % (orjson.dumps(__version__), b",\n".join(lines[::-1]))


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """What the file holds; nothing if it is damaged, too large, or of another version."""
    try:
        if file.stat().st_size > 2 * MOST_BYTES:
            return {}
        content = orjson.loads(file.read_bytes())
        if content["version"] != __version__:
            return {}
        return {key: found for key, found in content["entries"] if isinstance(key, str) and _sound(found)}
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.debug("%s is not read", file, exc_info=error)
        return {}


def _sound(found: Any) -> bool:
    if not isinstance(found, dict) or found.keys() != {*_TEXTS, *_COUNTS, "scores"}:
        return False
    scores = found["scores"]
    whole = scores is None or (
        isinstance(scores, dict)
        and scores.keys() == {"replacement", "completeness"}
        and all(isinstance(score, int | float) for score in scores.values())
    )
    return (
        whole
        and all(isinstance(found[name], str) for name in _TEXTS)
        and all(isinstance(found[name], int) for name in _COUNTS)
    )


def summary_of_file(path: Path, otherwise: str) -> dict[str, Any]:
    """The same as `summary_of`, from the header and one column: a graph of a gigabyte is listed at once.

    Args:
        otherwise: the title of a graph that says none and has no prompt.

    Raises:
        GraphError: as `Graph.peek`.
    """
    facts, kinds, edges = Graph.peek(path, parse=_parse)
    prompt, extra = facts.get("prompt"), facts.get("extra") or {}
    text = prompt if prompt is not None else "".join(facts.get("tokens") or ())
    return {
        **_told(extra.get("title") or text or otherwise, text, facts.get("model", ""),
                facts.get("transcoders", ""), facts.get("created", ""), facts.get("scores")),
        "kind": str(facts.get("kind", "attribution")), "units": str(facts.get("units", "")),
        "answer": str(next(iter(facts.get("logit_labels") or ()), "")),
        "nodes": len(kinds), "edges": edges, "features": int((kinds == NodeKind.FEATURE).sum()),
    }  # fmt: skip


def summary_of(graph: Graph) -> dict[str, Any]:
    """What the list says of a graph: title, prompt, model, transcoders, date, scores, kind, answer and sizes."""
    facts = graph.provenance
    text = facts.prompt if facts.prompt is not None else "".join(facts.tokens)
    return {
        **_told(facts.extra.get("title") or text, text, facts.model, facts.transcoders, facts.created, facts.scores),
        "kind": facts.kind, "units": facts.units,
        "answer": next(iter(facts.logit_labels), ""),
        "nodes": len(graph.nodes), "edges": graph.n_edges,
        "features": int((graph.nodes.kind == NodeKind.FEATURE).sum()),
    }  # fmt: skip


def _parse(text: str) -> Any:
    """A provenance, without the labels and effects that make up most of it where they name no title; by the fast
    reader, and what that does not take (halves of characters, endless numbers) by the careful one."""
    head, cut, rest = text.partition(', "extra": {')  # inside a text its quotes would stand behind a backslash
    try:
        if cut and '"title"' not in rest:
            with suppress(ValueError):
                found = orjson.loads(head + "}")
                if found.keys() >= _FACTS:
                    return found
        return orjson.loads(text)
    except ValueError:
        return parse_json(text)


def _told(title: Any, prompt: Any, model: Any, transcoders: Any, created: Any, scores: Any) -> dict[str, Any]:
    named = None if scores is None else dict(zip(("replacement", "completeness"), map(float, scores), strict=True))
    texts = {"title": title, "prompt": prompt, "model": model, "transcoders": transcoders, "created": created}
    return {name: str(value) for name, value in texts.items()} | {"scores": named}
