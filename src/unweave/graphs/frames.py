"""Graphs as tables of pandas and as graphs of networkx, where those are installed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from ..errors import OptionError
from .influence import Rows
from .nodes import NodeTable

if TYPE_CHECKING:
    from networkx import DiGraph
    from pandas import DataFrame
else:
    DataFrame = DiGraph = Any  # neither is needed to import this


class Frames(NamedTuple):
    """A graph as two tables."""

    nodes: DataFrame
    """By id: kind, layer, position, index, activation, token, label, influence."""
    edges: DataFrame
    """source, target (ids), weight, and its share of all absolute input of the target."""


def to_pandas(nodes: NodeTable, rows: Rows, size: Float[Tensor, " node"], facts: dict[str, list[Any]]) -> Frames:
    """Nodes, with columns of further facts, and edges as data frames.

    Raises:
        OptionError: pandas is not installed.
    """
    pandas = _package("pandas")
    columns = {name: values for name, values in _columns(nodes, facts).items() if name != "id"}
    return Frames(
        pandas.DataFrame(columns, index=pandas.Index(nodes.ids, name="id")), pandas.DataFrame(_edges(nodes, rows, size))
    )


def to_networkx(nodes: NodeTable, rows: Rows, size: Float[Tensor, " node"], facts: dict[str, list[Any]]) -> DiGraph:
    """Nodes by id and edges from source to target, with the columns of `to_pandas` as attributes.

    Raises:
        OptionError: networkx is not installed.
    """
    graph = _package("networkx").DiGraph()
    columns = _columns(nodes, facts)
    names = list(columns)
    graph.add_nodes_from(
        (row[0], dict(zip(names[1:], row[1:], strict=True))) for row in zip(*columns.values(), strict=True)
    )
    graph.add_edges_from(
        (source, target, {"weight": weight, "share": share})
        for source, target, weight, share in zip(*_edges(nodes, rows, size).values(), strict=True)
    )
    return graph


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise OptionError(f"this needs the package {name}; install it with: pip install {name}") from error


def _columns(nodes: NodeTable, facts: dict[str, list[Any]]) -> dict[str, list[Any]]:
    listed = list(nodes)
    return {
        "id": nodes.ids,
        "kind": [node.kind.name.lower() for node in listed],
        "layer": nodes.layer.tolist(),
        "position": nodes.position.tolist(),
        "index": nodes.index.tolist(),
        "activation": nodes.activation.tolist(),
        "token": [node.token for node in listed],
        **facts,
    }


def _edges(nodes: NodeTable, rows: Rows, size: Float[Tensor, " node"]) -> dict[str, list[Any]]:
    target, ids = rows.row_numbers(), nodes.ids
    return {
        "source": [ids[column] for column in rows.column.tolist()],
        "target": [ids[row] for row in target.tolist()],
        "weight": rows.value.tolist(),
        "share": (rows.value.abs().double() / size.clamp_min(1e-10)[target]).tolist(),
    }
