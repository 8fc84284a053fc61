"""What a word stands for where features are named: an id, or a supernode of a file; looked up in a graph if there is
one."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..base.jsontext import parse_json
from ..errors import GraphError, InterventionError
from ..graphs.graph import Graph
from ..graphs.nodes import NodeKind
from ..models.language_model import LanguageModel
from ..transcoders.replacement import ReplacementModel
from .edits import Feature, check_feature


@dataclass(frozen=True)
class Names:
    """The features that can be named, and where their names come from."""

    model: ReplacementModel
    supernodes: dict[str, tuple[Feature, ...]] = field(default_factory=dict)
    graph: Graph | None = None

    def features(self, text: str) -> tuple[tuple[Feature, ...], str | None]:
        """The features of an id or a supernode, and the supernode's name.

        Raises:
            InterventionError: neither, or a feature that the dictionary does not have.
            GraphError: a feature that is not in the graph.
        """
        members = self.supernodes.get(text)
        if members is None and not re.match(r"\d+_|E_", text):
            known = (
                f"the file has: {', '.join(self.supernodes)}" if self.supernodes else "give them with --supernodes FILE"
            )
            raise InterventionError(f"{text!r} is neither a feature's id (such as '12_345_5') nor a supernode; {known}")
        features = (Feature.parse(text),) if members is None else members
        for feature in features:
            check_feature(feature, self.model.transcoders)
            if self.graph is not None:
                check_in_graph(feature, self.graph)
        return features, None if members is None else text


def read_supernodes(path: str | Path) -> dict[str, tuple[Feature, ...]]:
    """Supernodes of a JSON file: `{"Texas": ["12_345_5", ...], ...}`.

    Raises:
        InterventionError: it cannot be read, or is something else.
    """
    try:
        content = parse_json(Path(path).expanduser().read_bytes())
    except OSError as error:
        raise InterventionError(f"cannot read supernodes from {path}: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise InterventionError(f"{path} is not JSON: line {error.lineno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise InterventionError(f"{path} is not JSON: it is not text in UTF-8") from error
    except ValueError as error:
        raise InterventionError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InterventionError(f'{path} does not hold supernodes; it should look like {{"Texas": ["12_345_5"]}}')
    for name, members in content.items():
        if re.fullmatch(r"(\d+|E)_(-?\d+|error_mlp)(_[\d*+]+)?", name):
            raise InterventionError(f"{path}: supernode {name!r} is named like a node; give it another name")
        if not isinstance(members, list) or not members or not all(isinstance(member, str) for member in members):
            raise InterventionError(
                f"{path}: supernode {name!r} should be a list of feature ids such as '12_345_5', not {members!r}"
            )
    return {
        name: tuple(dict.fromkeys(Feature.parse(member) for member in members)) for name, members in content.items()
    }


def check_in_graph(feature: Feature, graph: Graph) -> None:
    """Refuse a feature that is not a node of a graph; one at `*` or `+` must be a node at some position.

    Raises:
        GraphError: it is not in the graph.
    """
    nodes = graph.nodes
    if isinstance(feature.position, int) and feature.position >= 0:
        nodes.find(feature.id)
    elif not bool(
        ((nodes.kind == NodeKind.FEATURE) & (nodes.layer == feature.layer) & (nodes.index == feature.index)).any()
    ):
        raise GraphError(
            f"feature {feature.index} of layer {feature.layer} is at no position of this graph of {len(nodes)} nodes"
        )


def check_graph(graph: Graph, path: str | Path, model: ReplacementModel) -> None:
    """Refuse a graph that was traced with another model or dictionary.

    Graphs that came from other tools carry neither a path nor a hash; of these the number of layers alone is known.

    Raises:
        GraphError: saying which of the two differs.
    """
    facts = graph.provenance
    check_model(graph, path, model.language_model)
    if facts.origin == "unweave" and not model.transcoders.is_of(facts.transcoders_sha256):
        hashes = f"(sha256 {facts.transcoders_sha256[:12]}, this one {model.transcoders.sha256[:12]})"
        raise GraphError(
            f"{path} was traced with another dictionary, {facts.transcoders} {hashes}; give its --transcoders"
        )


def check_model(graph: Graph, path: str | Path, model: LanguageModel) -> None:
    """Refuse a graph that is of another model; of graphs from other tools the number of layers alone is known.

    Raises:
        GraphError: it is.
    """
    facts, name = graph.provenance, model.name
    if facts.n_layers != model.n_layers:
        raise GraphError(
            f"{path} is a graph of a model of {facts.n_layers} layers ({facts.model}); {name} has {model.n_layers}; "
            f"give its --model"
        )
    if facts.origin != "unweave":
        return
    if facts.model != name and Path(facts.model).expanduser().resolve() != Path(name).expanduser().resolve():
        raise GraphError(f"{path} is a graph of model {facts.model}, not of {name}; give --model {facts.model}")
