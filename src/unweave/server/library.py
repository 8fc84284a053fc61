"""Which graphs there are: files found in folders, each under a slug, read when they are asked for."""

import logging
import math
import os
import re
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..base.files import check_writable
from ..base.jsontext import encodable, parse_json
from ..errors import FileError, GraphError, UnweaveError
from ..graphs.graph import Graph
from .summaries import Summaries, summary_of, summary_of_file

logger = logging.getLogger(__name__)

GRAPH_SUFFIXES = (".graph.safetensors", ".safetensors", ".json")
BESIDE = (".annotations.json", ".validation.json", ".study.json", ".explanation.json", ".groups.json")
"""Endings of files that lie beside graphs and are none."""
GRAPHS_IN_MEMORY = 6


class Stamp(NamedTuple):
    """What tells one state of a file from another."""

    modified: int
    size: int
    inode: int = 0


@dataclass(frozen=True)
class Library:
    """The graphs in some files and folders; files may come and go while the server runs."""

    roots: tuple[Path, ...]
    _adding: threading.Lock = field(default_factory=threading.Lock)
    _slugs: dict[str, Path] = field(default_factory=dict)
    _graphs: OrderedDict[tuple[Path, Stamp], Graph] = field(default_factory=OrderedDict)
    _summaries: dict[Path, tuple[Stamp, dict[str, Any]]] = field(default_factory=dict)
    _kept: Summaries = field(default_factory=Summaries)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _reading: dict[Path, threading.Lock] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where new graphs go: the first folder, or the folder of the first file."""
        first = self.roots[0]
        return first.parent if first.is_file() else first

    def paths(self) -> dict[str, Path]:
        """The files by slug, the newest first; a file keeps its slug while the server runs."""
        with self._lock:
            found = {path: stamp_of(path) for root in self.roots for path in _files(root)}
            known = {path: slug for slug, path in self._slugs.items()}
            for path in sorted(path for path in found if path not in known):
                slug = _free(slug_of_file(path), self._slugs)
                self._slugs[slug], known[path] = path, slug
            present = sorted(
                (path for path, stamp in found.items() if stamp),
                key=lambda path: (-(found[path] or Stamp(0, 0)).modified, path),
            )
            return {known[path]: path for path in present}

    def path(self, slug: str) -> Path | None:
        """The file of a slug, if there is one."""
        path = self._slugs.get(slug) or self.paths().get(slug)
        return path if path is not None and stamp_of(path) is not None else None

    def graph(self, path: Path) -> tuple[Graph, Stamp]:
        """A graph, read once for each state of its file, and that state.

        Raises:
            GraphError: the file cannot be read.
        """
        with self._lock:
            reading = self._reading.setdefault(path, threading.Lock())
        with reading:
            stamp = stamp_of(path)
            if stamp is None:
                raise GraphError(f"no graph file at {path}")
            with self._lock:
                if (path, stamp) in self._graphs:
                    self._graphs.move_to_end((path, stamp))
                    return self._graphs[path, stamp], stamp
            graph = whole(path)
            with self._lock:
                self._graphs[path, stamp] = graph
                while len(self._graphs) > GRAPHS_IN_MEMORY:
                    self._graphs.popitem(last=False)
            return graph, stamp

    def summary(self, slug: str, path: Path, until: float = math.inf) -> dict[str, Any]:
        """What the list says of a graph, or why it cannot be read: one bad file never takes the list down.

        After `until` (of `time.monotonic`) no file is read any more: what is not known yet is `pending`.
        """
        stamp = stamp_of(path)
        kept = self._summaries.get(path)
        if kept is None or kept[0] != stamp or stamp is None:
            if time.monotonic() > until:
                return {"slug": slug, "file": encodable(path.name), "pending": True}
            try:
                facts = self._kept.of(_key(path, stamp), lambda: self._read_summary(path))
            except UnweaveError as error:
                facts = {"error": str(error)}
            except Exception as error:
                facts = {"error": str(_unreadable(path, error))}
            kept = (stamp or Stamp(0, 0), encodable(facts))
            self._summaries[path] = kept
        named = {"slug": slug, "file": encodable(path.name)}
        there = {
            f"has_{name}": stamp_of(beside(path, f".{name}.json")) is not None for name in ("validation", "explanation")
        }
        return named | kept[1] | there | {"has_study": study_file_of(path) is not None}

    def summaries(self, until: float = math.inf) -> list[dict[str, Any]]:
        """What the list says of every graph, the newest first, see `summary`; what took long to read is kept."""
        found = [self.summary(slug, path, until) for slug, path in self.paths().items()]
        self._kept.keep()
        return found

    def _read_summary(self, path: Path) -> dict[str, Any]:
        if path.suffix == ".safetensors":
            return summary_of_file(path, stem_of(path))
        return summary_of(self.graph(path)[0])

    def add(self, name: str, write: Callable[[Path], object]) -> str:
        """Let `write` make a file in `folder`, under a name after `name` that no graph there has, nor what lies beside
        one; its slug.

        Raises:
            FileError: the name is that of a file that lies beside graphs, or the folder cannot be written.
        """
        given = next((end for end in GRAPH_SUFFIXES if name.endswith(end)), ".graph.safetensors")
        suffix = ".json" if given == ".json" else ".graph.safetensors"  # any other safetensors are no graph in a folder
        stem = _clean(name.removesuffix(given))
        if not _may_be_graph(stem + suffix):
            raise FileError(f"{name!r} is the name of a file that lies beside graphs; give the graph another name")
        with self._adding:
            taken = {stem_of(path).casefold() for path in self.folder.glob("*")} if self.folder.is_dir() else set()
            path = check_writable(self.folder / f"{_free(stem, taken)}{suffix}")
            write(path)
        self.paths()
        return next(slug for slug, known in self._slugs.items() if known == path)


def open_library(given: Sequence[Path]) -> Library:
    """A library of files and folders.

    Raises:
        FileError: one of them is not there.
    """
    for path in given:
        if not path.expanduser().exists():
            raise FileError(f"nothing at {path}; give graph files or folders with graphs, or trace a prompt first")
        if not path.expanduser().is_dir() and stamp_of(path.expanduser()) is None:
            raise FileError(f"{path} is neither a file nor a folder; give graph files or folders with graphs")
    return Library(tuple(path.expanduser().resolve() for path in given))


def whole(path: Path) -> Graph:
    """Read a graph file, whatever is in it.

    Raises:
        GraphError: it is not a graph.
    """
    try:
        return Graph.load(path)
    except UnweaveError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> GraphError:
    logger.debug("%s cannot be read", path, exc_info=error)
    said = " ".join(f"{type(error).__name__} {error}".split())[:200]
    return GraphError(f"{path} is not a graph file that can be read ({said}); trace the prompt again")


def regular_file(path: Path) -> bytes:
    """The content of a file; a named pipe or a device, which may never end or answer, is not opened.

    Raises:
        OSError: it cannot be read, or is something else than a file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{path} is no regular file")
        return file.read()


def stem_of(path: Path) -> str:
    """A graph's file name without its ending, shared by what lies beside it."""
    suffix = next((end for end in (*BESIDE, *GRAPH_SUFFIXES) if path.name.endswith(end)), "")
    return path.name.removesuffix(suffix)


def beside(path: Path, suffix: str) -> Path:
    """The file that lies beside a graph: `X.annotations.json` beside `X.graph.safetensors`."""
    return path.with_name(stem_of(path) + suffix)


def study_file_of(path: Path) -> Path | None:
    """The facts of the study that a graph is of: `X.study.json` beside `X.graph.safetensors` or
    `X.2.graph.safetensors`; None if there are none."""
    stem = stem_of(path)
    names = dict.fromkeys((stem, re.sub(r"\.\d+$", "", stem)))
    found = (path.with_name(f"{name}.study.json") for name in names)
    return next((file for file in found if stamp_of(file) is not None), None)


def slug_of_file(path: Path) -> str:
    """A file's name in addresses.

    >>> slug_of_file(Path("graphs/Two words.graph.safetensors"))
    'Two-words'
    """
    return _clean(stem_of(path))


def validation_of(path: Path) -> tuple[Any, Stamp | None]:
    """The content of the validation report beside a graph, and its file's state; None without one that can be read."""
    report = beside(path, ".validation.json")
    stamp = stamp_of(report)
    if stamp is None:
        return None, None
    try:
        return parse_json(regular_file(report)), stamp
    except (OSError, ValueError):
        return None, stamp


def _clean(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:100] or "graph"


def _free(wanted: str, taken: Container[str]) -> str:
    names = (wanted if number == 1 else f"{wanted}-{number}" for number in range(1, 1 << 30))
    return next(name for name in names if name not in taken and name.casefold() not in taken)


def _files(root: Path) -> list[Path]:
    if not root.is_dir():
        return [root]
    try:
        return [path for path in root.iterdir() if _may_be_graph(path.name)]
    except OSError:  # gone since, or not to be looked into
        return []


def _may_be_graph(name: str) -> bool:
    if name.startswith(".") or name == "graph-metadata.json" or name.casefold().endswith(BESIDE):
        return False
    return name.endswith((".graph.safetensors", ".json"))


def _key(path: Path, stamp: Stamp | None) -> str:
    return ":".join(map(str, (ascii(str(path)), *(stamp or ()))))


def stamp_of(path: Path) -> Stamp | None:
    """A file's state; None if it is not there, or no regular file: named pipes and devices are never opened."""
    try:
        state = path.stat()
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    if not stat.S_ISREG(state.st_mode):
        return None
    return Stamp(state.st_mtime_ns, state.st_size, state.st_ino)
