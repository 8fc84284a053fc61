"""Explanations beside graphs: the one of a graph's own prompt and model, whichever graph of the folder it was stored
with; where there is none, groups that are read off the graph."""

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ..base.files import write_atomically
from ..base.jsontext import parse_json
from ..errors import FileError, GraphError
from ..explanation.read_off import groups_of
from ..explanation.stored import SUFFIX, read_explanation
from ..graphs.graph import Graph
from .library import Library, Stamp, beside, regular_file, stamp_of

GROUPS, GROUPS_VERSION = "unweave groups", 1
MOST_SEARCHED = 200
"""Explanations in a folder that are looked into for one of another graph's prompt, the newest first."""


class Explained(NamedTuple):
    """What is known of why: an explanation, or what is wrong with its file; both None where there is none."""

    facts: dict[str, Any] | None = None
    error: str | None = None
    path: Path | None = None


@dataclass(frozen=True)
class Explanations:
    """Explanations in files, read once for each state of a file."""

    _read: dict[Path, tuple[Stamp, Explained]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, library: Library, path: Path, graph: Graph) -> Explained:
        """The explanation beside a graph, else one of the same prompt and model in the library's folders."""
        own = self._at(beside(path, SUFFIX))
        if own.facts is not None or own.error is not None:
            wrong = own.facts is not None and not _is_of(own.facts, graph)
            return Explained(None, f"{beside(path, SUFFIX).name} explains another prompt or model") if wrong else own
        files = [file for root in library.roots if root.is_dir() for file in root.glob(f"*{SUFFIX}")]
        newest = sorted(files, key=lambda file: (stamp_of(file) or Stamp(0, 0)).modified, reverse=True)
        found = (self._at(file) for file in newest[:MOST_SEARCHED])
        return next((one for one in found if one.facts is not None and _is_of(one.facts, graph)), Explained())

    def _at(self, path: Path) -> Explained:
        stamp = stamp_of(path)
        if stamp is None:
            return Explained()
        with self._lock:
            kept = self._read.get(path)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        try:
            found = Explained(read_explanation(regular_file(path), path), None, path)
        except FileError as error:
            found = Explained(None, str(error), path)
        except OSError as error:
            found = Explained(None, f"cannot read {path}: {error.strerror or error}", path)
        with self._lock:
            self._read[path] = (stamp, found)
            while len(self._read) > MOST_SEARCHED:
                del self._read[next(iter(self._read))]
        return found


def _is_of(facts: dict[str, Any], graph: Graph) -> bool:
    return facts["model"] == graph.provenance.model and facts["ids"] == list(graph.provenance.input_ids)


def read_off_groups(path: Path, graph: Graph) -> list[dict[str, Any]]:
    """Groups that are read off a graph, as rows and signed effect: those kept beside it, else made now and kept where
    that is possible."""
    file, size = beside(path, ".groups.json"), (stamp_of(path) or Stamp(0, 0)).size
    head = {"format": GROUPS, "version": GROUPS_VERSION, "bytes": size, "nodes": len(graph.nodes)}
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, GraphError):
        kept = parse_json(regular_file(file))
        if {name: kept[name] for name in head} == head:
            return [
                {
                    "rows": [graph.nodes.find(str(name)).row for name in one["members"]],
                    "effect": float(one["effect"]),
                }
                for one in kept["groups"]
            ]
    groups = groups_of(graph)
    told = [{"members": [graph.nodes[row].id for row in one.rows], "effect": one.effect} for one in groups]
    body = orjson.dumps(head | {"groups": told})
    with suppress(FileError, OSError):
        write_atomically(file, lambda name: Path(name).write_bytes(body))
    return [one.facts for one in groups]
