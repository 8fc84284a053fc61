"""What people add to a graph: kept in one file beside it, by revision, replaced whole or not at all."""

import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from ..base.files import write_atomically
from ..base.jsontext import encodable, parse_json
from ..errors import FileError, GraphError
from ..graphs.graph import Graph
from ..graphs.nodes import NodeKind
from .library import beside, regular_file

FORMAT, FORMAT_VERSION = "unweave annotations", 1
_LOCK = threading.Lock()

NodeId = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=100_000)]


class Supernode(BaseModel):
    """Nodes that are treated as one."""

    model_config = ConfigDict(extra="allow", strict=True)
    id: NodeId
    name: Text = ""
    members: list[NodeId]
    collapsed: bool = True


class Annotations(BaseModel):
    """All that people add to a graph; unknown keys are kept, so that an older server loses nothing of a newer page."""

    model_config = ConfigDict(extra="allow", strict=True)
    pins: list[NodeId] = []
    supernodes: list[Supernode] = []
    labels: dict[NodeId, Text] = {}
    notes: Text = ""
    layout: dict[NodeId, Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]] = {}
    thresholds: dict[NodeId, FiniteFloat | bool | None] = {}
    history: list[dict[str, Any]] = []
    views: list[dict[str, Any]] = []


class Saved(NamedTuple):
    """A revision (0: nothing saved yet) and what it holds."""

    revision: int
    annotations: dict[str, Any]


def read(graph_path: Path, graph: Graph | None = None) -> Saved:
    """What is saved beside a graph; without a file, revision 0 with what the graph itself brings.

    Raises:
        FileError: the file is damaged, or was written by a newer version; it is left as it is.
    """
    path = beside(graph_path, ".annotations.json")
    try:
        text = regular_file(path)
    except FileNotFoundError:
        return Saved(0, {} if graph is None else brought_by(graph))
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        content = parse_json(text)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        if content["version"] > FORMAT_VERSION:
            raise FileError(
                f"{path} was written by a newer version (format {content['version']}); upgrade unweave, it is left as "
                f"it is"
            )
        found = Saved(
            content["revision"], Annotations.model_validate(content["annotations"]).model_dump(exclude_unset=True)
        )
        if type(found.revision) is not int or found.revision < 1:
            raise ValueError("its revision is not a number")
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{path} is damaged ({_short(error)}); move it away to begin anew, it is left as it is"
        ) from error
    return found


def save(
    graph_path: Path, revision: int, annotations: dict[str, Any], graph: Graph | None = None
) -> tuple[bool, Saved]:
    """Replace revision `revision` and say whether that was done; if not, what is saved now is another's work.

    Raises:
        FileError: the file is damaged, from a newer version, or cannot be written.
    """
    path = beside(graph_path, ".annotations.json")
    with _alone(path.parent):
        now = read(graph_path, graph)
        if now.revision != revision:
            return False, now
        content = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "revision": revision + 1,
            "graph": encodable(graph_path.name),
            "annotations": annotations,
        }
        body = orjson.dumps(content, option=orjson.OPT_INDENT_2)
        write_atomically(path, lambda name: Path(name).write_bytes(body))
        return True, Saved(revision + 1, annotations)


def add_supernode(graph_path: Path, graph: Graph, name: str, members: Sequence[str]) -> Saved:
    """Make nodes a supernode of a graph, in place of one of the same name; nodes of other supernodes leave those.

    Raises:
        FileError: the file is damaged, from a newer version, or cannot be written.
    """
    while True:
        now = read(graph_path, graph)
        taken, kept = set(members), []
        for group in now.annotations.get("supernodes", []):
            rest = [member for member in group["members"] if member not in taken]
            if group.get("name") != name and rest:
                kept.append(group | {"members": rest})
        used = {group["id"] for group in kept}
        free = next(f"s{number}" for number in count(1) if f"s{number}" not in used)
        made = {"id": free, "name": name, "members": list(members), "collapsed": True}
        pins = list(dict.fromkeys([*now.annotations.get("pins", []), *members]))
        done, saved = save(
            graph_path, now.revision, now.annotations | {"supernodes": [*kept, made], "pins": pins}, graph
        )
        if done:
            return saved


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer at a time, in this process and, where the system can lock a folder, among all."""
    with _LOCK:
        try:
            import fcntl
        except ImportError:  # Windows: one server for a folder
            yield
            return
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _short(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return " ".join(f"{type(error).__name__} {error}".split())[:200]


def mentioned(graph: Graph, annotations: dict[str, Any], most: int) -> list[tuple[int, int]]:
    """The (layer, index) of the features that people pinned or grouped, then of the most influential, at most
    `most`."""
    nodes = graph.nodes
    names = [
        *annotations.get("pins", []),
        *(member for group in annotations.get("supernodes", []) for member in group["members"]),
    ]
    rows = [nodes.rows[name] for name in names if name in nodes.rows]
    features = graph.influence_rank()[nodes.features].argsort(stable=True)[:most].tolist()
    keys = [
        (int(nodes.layer[row]), int(nodes.index[row]))
        for row in [*rows, *features]
        if nodes.kind[row] == NodeKind.FEATURE
    ]
    return list(dict.fromkeys(keys))[:most]


def brought_by(graph: Graph) -> dict[str, Any]:
    """Pins, supernodes, labels and notes that came with a graph, of another tool or of a study; nodes it does not
    have are left out."""
    given = graph.provenance.extra.get("qParams")
    given = given if isinstance(given, dict) else {}
    pins = _present(graph, _listed(given.get("pinnedIds")))
    supernodes = []
    for item in _listed(given.get("supernodes")):
        if isinstance(item, list) and item and (members := _present(graph, item[1:])):
            supernodes.append(
                {"id": f"s{len(supernodes) + 1}", "name": str(item[0]), "members": members, "collapsed": True}
            )
    members = [member for group in supernodes for member in group["members"]]
    labels = {}
    for item in _listed(given.get("clerps")):
        if isinstance(item, list) and len(item) == 2 and (found := _present(graph, [item[0]])):
            labels[found[0]] = str(item[1])
    logits = graph.nodes.logits
    if "title" in graph.provenance.extra and (pins or members) and len(graph.nodes) > logits.start:
        pins.append(graph.nodes[logits.start].id)  # a study's groups are about its answer
    notes = graph.provenance.extra.get("notes")
    brought = {
        "pins": list(dict.fromkeys([*pins, *members])),
        "supernodes": supernodes,
        "labels": labels,
        "notes": notes if isinstance(notes, str) else "",
    }
    return {name: value for name, value in brought.items() if value}


def _listed(value: Any) -> list[Any]:
    """A list, or the text of one: some tools write their lists as JSON in a string, or as ids with commas."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = [part for part in str(value).split(",") if part]
    return value if isinstance(value, list) else []


def _present(graph: Graph, names: list[Any]) -> list[str]:
    """Ids of this graph for the names of another tool, those it does not know left out."""
    found = []
    for name in map(str, names):
        try:
            found.append(graph.nodes.find(name).id)
        except GraphError:
            found += _by_feature(graph, name)
    return list(dict.fromkeys(found))


def _by_feature(graph: Graph, name: str) -> list[str]:
    """The first node of a feature named without a position, `21_5943-0`, as Anthropic's page does."""
    match = re.fullmatch(r"(\d+)_(\d+)-\d+", name)
    if match is None:
        return []
    nodes = graph.nodes
    same = (nodes.kind == NodeKind.FEATURE) & (nodes.layer == int(match[1])) & (nodes.index == int(match[2]))
    rows = same.nonzero().flatten().tolist()
    return [nodes[rows[0]].id] if rows else []
