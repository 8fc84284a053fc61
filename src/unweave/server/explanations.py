"""Explanations beside graphs: the one of a graph's own prompt and model, whichever graph of the folder it was stored
with."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import FileError
from ..explanation.stored import SUFFIX, read_explanation
from ..graphs.graph import Graph
from .library import Library, Stamp, beside, regular_file, stamp_of

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
