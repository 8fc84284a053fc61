"""The header of a graph file: what is checked before anything is read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..base.jsontext import parse_json
from ..errors import GraphError

SCHEMA_VERSION = 1
_EXTRA = {
    "labels": dict,
    "promotes": dict,
    "effects": dict,
    "metadata": dict,
    "qParams": dict,
    "title": str,
    "notes": str,
}
"""What is read of `Provenance.extra`."""


def check_extra(extra: Any) -> None:
    """Refuse extra facts of another type than they are read as."""
    if not isinstance(extra, dict):
        raise ValueError("its extra facts are no object")
    for name, kind in _EXTRA.items():
        if not isinstance(extra.get(name, kind()), kind):
            raise ValueError(f"its {name} are of another type")


class GraphSummary(NamedTuple):
    """What can be known of a graph file without reading it whole."""

    provenance: dict[str, Any]
    kind: Int[Tensor, " node"]
    n_edges: int


@contextmanager
def open_graph_file(path: Path, parse: Callable[[str], Any] = parse_json) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A graph file and its provenance; whatever is wrong with the file while it is read becomes one line."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            _check_header(path, header)
            yield file, parse(header["provenance"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise GraphError(f"{path} is not a whole graph file ({error}); trace the prompt again") from error


def _check_header(path: Path, header: dict[str, str]) -> None:
    if header.get("format") != "unweave graph":
        raise GraphError(f"{path} is a safetensors file but not a graph (no 'unweave graph' in its header)")
    version = header.get("schema_version", "")
    if not (version.isascii() and version.isdigit() and len(version) < 10):
        raise GraphError(f"{path} has schema version {version[:20]!r}, which is not a number")
    if int(version) > SCHEMA_VERSION:
        raise GraphError(
            f"{path} has schema version {version}; this unweave reads up to {SCHEMA_VERSION}: upgrade unweave"
        )
