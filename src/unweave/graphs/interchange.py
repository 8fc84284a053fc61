"""Graphs as the JSON that Anthropic's page, circuit-tracer and Neuronpedia read and write."""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..base.catalogue import viewer_names
from ..base.files import write_atomically
from ..base.jsontext import parse_json
from ..base.words import slug_of
from ..errors import FileError, GraphError
from .drawn import Drawn
from .links import links_as_tuples, objects_again, rows_of
from .nodes import Node, NodeKind, NodeTable
from .provenance import Provenance
from .spelling import cantor, kept_beside, merged, respelled, rows_by_id, uncantor

FEATURE_TYPES = {
    NodeKind.FEATURE: "cross layer transcoder",
    NodeKind.ERROR: "mlp reconstruction error",
    NodeKind.EMBEDDING: "embedding",
    NodeKind.LOGIT: "logit",
}
"""The field's names of the node kinds; features are called so whatever their dictionary."""
LINKS_AT_ONCE = 1 << 16
"""How many links are text in memory at a time."""


def to_json(graph: Drawn, slug: str | None = None, scan: str | None = None) -> dict[str, Any]:
    """The graph as one JSON document that Neuronpedia's schema accepts. Prune first: every edge becomes an object.

    Args:
        slug: the graph's name in viewers; letters, digits, `.`, `_`, `-`.
        scan: the model's name in viewers; None: Neuronpedia's, where the model is one of the hub. circuit-tracer's page
            wants the dictionary's repository instead, to fetch examples of features from.
    """
    ids = _ids(graph)
    weights = zip(graph.rows.column.tolist(), graph.rows.row_numbers().tolist(), graph.rows.value.tolist(), strict=True)
    links = [{"source": ids[source], "target": ids[target], "weight": weight} for source, target, weight in weights]
    return {**_without_links(graph, slug, scan), "links": links}


def _ids(graph: Drawn) -> list[str]:
    """The ids of the nodes as the file has or had them that the graph came from."""
    spelled = graph.provenance.extra.get("ids", {})
    return [spelled.get(name, name) for name in graph.nodes.ids]


def _without_links(graph: Drawn, slug: str | None, scan: str | None) -> dict[str, Any]:
    facts = graph.provenance
    prompt = facts.prompt if facts.prompt is not None else "".join(facts.tokens)
    named, source_set = viewer_names(facts.model, facts.transcoders)
    metadata: dict[str, Any] = {
        **({} if source_set is None else {"feature_details": {"neuronpedia_source_set": source_set}}),
        **facts.extra.get("metadata", {}),
        "slug": slug or slug_of(prompt),
        "scan": scan or re.sub(r"[^A-Za-z0-9_.-]+", "-", named).strip("-") or "model",
        "transcoder_list": [facts.transcoders] if facts.transcoders else [],
        "prompt_tokens": list(facts.tokens),
        "prompt": prompt,
        "schema_version": 1,
    }
    if facts.pruning is not None:
        metadata |= {
            "node_threshold": facts.pruning[0],
            "pruning_settings": {"node_threshold": facts.pruning[0], "edge_threshold": facts.pruning[1]},
        }
    if facts.scores is not None:
        metadata |= {"replacement_score": facts.scores[0], "completeness_score": facts.scores[1]}
    if facts.origin == "unweave":
        metadata["info"] = {"generator": {"name": "unweave", "version": facts.version}, "source_urls": []}
    if graph.is_response:
        metadata["unweave"] = {"kind": "response"} | {name: getattr(facts, name) for name in RESPONSE_FACTS}
        if graph.effect is not None:
            metadata["unweave"]["effect"] = dict(zip(graph.nodes.ids, graph.effect.tolist(), strict=True))
    rank = graph.influence_rank().tolist()
    nodes = list(graph.nodes)
    first = graph.nodes.logits.start
    labels = facts.extra.get("labels", {})
    spelled = facts.extra.get("ids", {})
    ids = _ids(graph)
    return {
        "metadata": metadata,
        "qParams": respelled(facts.extra.get("qParams"), spelled)
        or {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [
            _node(node, ids[node.row], graph, rank[node.row], node.row == first, labels.get(node.id, ""))
            for node in nodes
        ],
    }


def with_annotations(document: dict[str, Any], annotations: dict[str, Any]) -> dict[str, Any]:
    """The JSON of `to_json` with pins, supernodes and labels in the places where Neuronpedia looks for them.

    Nodes that the graph does not have are left out; members of supernodes are pinned, since only pinned nodes are
    grouped there.
    """
    errors = [node for node in document["nodes"] if node["feature_type"] == FEATURE_TYPES[NodeKind.ERROR]]
    annotations = respelled(
        annotations, {f"{node['layer']}_error_mlp_{node['ctx_idx']}": node["node_id"] for node in errors}
    )
    present = {node["node_id"]: node for node in document["nodes"]}
    groups = [
        [str(group.get("name", "")), *(name for name in group["members"] if name in present)]
        for group in annotations.get("supernodes", [])
    ]
    groups = [group for group in groups if len(group) > 1]
    pins = [name for name in annotations.get("pins", []) if name in present]
    labels = annotations.get("labels", {})
    clerps, nodes = [], []
    for name, node in present.items():
        label = labels.get(name) or labels.get("_".join(name.split("_")[:2]))
        if label and node["feature_type"] == FEATURE_TYPES[NodeKind.FEATURE]:
            clerps.append([name, label])
            node = {**node, "clerp": label}
        nodes.append(node)
    pinned = list(dict.fromkeys([*pins, *(name for group in groups for name in group[1:])]))
    given = {"linkType": "both", "clickedId": "", "sg_pos": ""} | document["qParams"]
    return {
        **document,
        "nodes": nodes,
        "qParams": {**given, "pinnedIds": pinned, "supernodes": groups, "clerps": clerps},
    }


def _node(node: Node, name: str, graph: Drawn, rank: float, top: bool, label: str) -> dict[str, Any]:
    layer = {NodeKind.EMBEDDING: "E"}.get(node.kind, str(node.layer))
    feature = {
        NodeKind.FEATURE: cantor(node.layer, node.index),
        NodeKind.ERROR: -1,
        NodeKind.EMBEDDING: node.position,
    }.get(node.kind, node.index)
    stem = {
        NodeKind.FEATURE: f"{node.layer}_{node.index}-0",
        NodeKind.ERROR: f"{node.layer}_{node.position}-0",
        NodeKind.EMBEDDING: f"E_{node.index}-{node.position}",
        NodeKind.LOGIT: f"L_{node.index}-{node.position}",
    }[node.kind]
    logit = node.kind == NodeKind.LOGIT
    if logit and not label:
        token = graph.provenance.logit_labels[node.row - graph.nodes.logits.start]
        label = f'Output "{token}" (p={node.activation:.3f})'
    return {
        "node_id": name,
        "feature": feature,
        "layer": layer,
        "ctx_idx": node.position,
        "feature_type": FEATURE_TYPES[node.kind],
        "token_prob": node.activation if logit else 0.0,
        "is_target_logit": top,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": stem,
        "clerp": label,
        "influence": None if logit else rank,
        "activation": node.activation if node.kind == NodeKind.FEATURE and math.isfinite(node.activation) else None,
    }


def write_json(graph: Drawn, path: str | Path, scan: str | None = None) -> Path:
    """Write the graph's JSON, and list it in `graph-metadata.json` beside it, as the peer's server expects.

    Raises:
        FileError: the folder cannot be written, or `path` is that list itself.
        GraphError: there is a `graph-metadata.json` that is not one; it is left as it is.
    """
    path = Path(path).expanduser()
    index = path.parent / "graph-metadata.json"
    if path.name == index.name:
        raise FileError(f"cannot write {path}: {index.name} is the list of graphs; give another file name")
    document = _without_links(graph, path.stem, scan)
    listed = _listed(index)
    others = [entry for entry in listed if entry.get("slug") != document["metadata"]["slug"]]
    write_atomically(path, lambda name: _write_stream(graph, document, name))
    text = json.dumps({"graphs": [*others, document["metadata"]]}, indent=2)
    write_atomically(index, lambda name: Path(name).write_text(text, encoding="utf-8"))
    return path


def _write_stream(graph: Drawn, document: dict[str, Any], name: str) -> None:
    """Write a document and its links, a piece of them at a time: as objects they are hundreds of bytes each."""
    ids = [json.dumps(name) for name in _ids(graph)]
    target, (_, column, value) = graph.rows.row_numbers(), graph.rows
    with open(name, "w", encoding="utf-8") as file:
        file.write(json.dumps(document, allow_nan=False)[:-1] + ', "links": [')
        for begin in range(0, len(value), LINKS_AT_ONCE):
            part = slice(begin, begin + LINKS_AT_ONCE)
            if not bool(value[part].isfinite().all()):
                raise GraphError("the graph has weights that are not finite, which JSON does not hold")
            links = zip(column[part].tolist(), target[part].tolist(), value[part].tolist(), strict=True)
            texts = (f'{{"source": {ids[s]}, "target": {ids[t]}, "weight": {weight!r}}}' for s, t, weight in links)
            file.write((", " if begin else "") + ", ".join(texts))
        file.write("]}")


def _listed(index: Path) -> list[dict[str, Any]]:
    if not index.exists():
        return []
    try:
        graphs = json.loads(index.read_text(encoding="utf-8-sig"))["graphs"]
        if not all(isinstance(entry, dict) for entry in graphs):
            raise TypeError("graphs is not a list of objects")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GraphError(f"{index} is not a list of graphs ({error}); move it away, then export again") from error
    return graphs


def read_json(path: str | Path) -> dict[str, Any]:
    """The fields of a graph from the JSON of Anthropic's page, circuit-tracer or Neuronpedia.

    Bias and pre-activation are not in such files and come out as NaN; everything in `metadata` and `qParams` is kept
    and written back by `to_json`.

    Raises:
        GraphError: not there, not JSON, or not such a graph; says what is missing.
    """
    path = Path(path).expanduser()
    try:
        document = parse_json(path.read_bytes(), links_as_tuples())
    except OSError as error:
        raise GraphError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise GraphError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise GraphError(f"{path} is not an attribution graph: it holds no object with metadata, nodes and links")
    try:
        return _graph(document)
    except KeyError as error:
        raise GraphError(f"{path} is not an attribution graph: {error.args[0]!r} is missing in it") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise GraphError(f"{path} is not an attribution graph: {error}") from error


class _Listed(NamedTuple):
    """A node of the file, and where it stands in our order: kind, then strength (logits) or place."""

    kind: NodeKind
    order: tuple[int | float, ...]
    place: tuple[int, int, int]
    """Layer, position, index."""
    given: dict[str, Any]


def _graph(document: dict[str, Any]) -> dict[str, Any]:
    metadata, given = objects_again(document["metadata"]), merged(_objects(document, "nodes"))
    if not isinstance(metadata, dict):
        raise TypeError("metadata is not an object")
    listed = sorted(map(_parse, given), key=lambda node: (node.kind, *node.order))
    kinds = torch.tensor([int(node.kind) for node in listed], dtype=torch.int64)
    places = torch.tensor([node.place for node in listed], dtype=torch.int64).reshape(-1, 3)
    strength = torch.tensor([_strength(node) for node in listed])
    nodes = NodeTable(kinds, places[:, 0], places[:, 1], places[:, 2], strength)
    rank = torch.tensor([_number(node.given.get("influence"), 1.0) for node in listed], dtype=torch.float64)
    spelled = [str(node.given["node_id"]) for node in listed]
    targets, sources, twice = rows_by_id(spelled, [node.kind for node in listed])
    rows, strange = rows_of(document["links"], len(listed), targets, sources, twice)
    probability = nodes.activation[kinds == NodeKind.LOGIT]
    for name, values in (("a weight", rows.value), ("an influence", rank), ("a probability", probability)):
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name} is not finite")
    unknown, nothing = torch.full((len(nodes),), torch.nan), torch.zeros(len(nodes))
    said = document | {"metadata": metadata, "qParams": objects_again(document.get("qParams"))}
    extra = kept_beside(said, [node.given for node in listed], nodes.ids, spelled, twice)
    extra |= {"links_left_out": strange} if strange else {}
    provenance = _provenance(metadata, listed, [node["node_id"] for node in given], extra)
    effect = _effects(metadata["unweave"], nodes) if provenance.kind == "response" else None
    return {
        "nodes": nodes, "rows": rows, "bias": unknown, "preactivation": unknown, "removed": nothing,
        "removed_size": nothing, "full_influence": None, "full_rank": rank, "provenance": provenance, "effect": effect,
    }  # fmt: skip


def _provenance(metadata: dict[str, Any], listed: list[_Listed], ids: list[str], extra: dict[str, Any]) -> Provenance:
    tokens = tuple(str(token) for token in metadata["prompt_tokens"])
    logits = [node.given for node in listed if node.kind == NodeKind.LOGIT]
    layers = [int(node.given["layer"]) for node in listed if str(node.given["layer"]).lstrip("-").isdigit()]
    top = max(layers, default=0)
    settings = metadata.get("pruning_settings") or {}
    return Provenance(
        model=str(metadata.get("scan", "")),
        n_layers=top - 1 if logits else top + 1,  # logits stand one layer above a free one
        prompt=str(metadata.get("prompt", "")),
        tokens=tokens,
        input_ids=_token_ids(ids, len(tokens)),
        logit_labels=tuple(
            re.sub(r'^Output "(.*)" \(p=[^)]*\)$', r"\1", str(node.get("clerp") or "")) for node in logits
        ),
        transcoders=", ".join(str(item) for item in metadata.get("transcoder_list") or []),
        pruning=(
            float(metadata.get("node_threshold") or settings.get("node_threshold") or 1),
            float(settings.get("edge_threshold") or 1),
        ),
        **_response_facts(metadata.get("unweave")),
        origin="json",
        extra=extra,
    )


RESPONSE_FACTS = (
    "units", "baseline", "attention", "instead", "instead_ids", "instead_places", "target_unit", "agreement",
    "mediated", "mediated_by_layer", "ranking",
)  # fmt: skip
"""What the metadata of a response graph's JSON hold, under `unweave`, beside its kind and every node's effect."""


def _response_facts(given: Any) -> dict[str, Any]:
    """Facts of a response graph, where the JSON says that it is one."""
    if not isinstance(given, dict) or given.get("kind") != "response":
        return {}
    found = {name: given[name] for name in RESPONSE_FACTS if name in given}
    return {"kind": "response"} | {
        name: tuple(value) if isinstance(value, list) else value for name, value in found.items()
    }


def _effects(given: dict[str, Any], nodes: NodeTable) -> torch.Tensor:
    """Every node's effect, 0 where the JSON names none."""
    listed = given.get("effect") or {}
    found = torch.tensor([float(listed.get(name, 0.0)) for name in nodes.ids])
    if not bool(found.isfinite().all()):
        raise ValueError("an effect is not finite")
    return found


def _objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    listed = document[key]
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise TypeError(f"{key} is not a list of objects")
    return listed


def _kind(node: dict[str, Any]) -> NodeKind:
    name = str(node["feature_type"]).lower()
    words = {"error": NodeKind.ERROR, "embedding": NodeKind.EMBEDDING, "logit": NodeKind.LOGIT}
    return next((kind for word, kind in words.items() if word in name), NodeKind.FEATURE)


def _parse(node: dict[str, Any]) -> _Listed:
    kind, position = _kind(node), int(node["ctx_idx"])
    layer = -1 if kind == NodeKind.EMBEDDING else int(node["layer"])
    parts = re.fullmatch(r"(E|-?\d+)_(-?\d+)_(-?\d+)", str(node["node_id"]))
    feature = node.get("feature")
    match kind:
        case NodeKind.ERROR:
            index = -1
        case NodeKind.FEATURE:
            index = (
                int(parts[2])
                if parts and parts[1] == str(layer)
                else uncantor(int(feature))[1]
                if feature is not None and int(feature) >= 0
                else -1
            )
        case _:
            index = int(parts[2]) if parts else int(feature or 0)
    order = (-_number(node.get("token_prob"), 0.0),) if kind == NodeKind.LOGIT else (layer, position, index)
    return _Listed(kind, order, (layer, position, index), node)


def _strength(node: _Listed) -> float:
    if node.kind == NodeKind.LOGIT:
        return _number(node.given.get("token_prob"), 0.0)
    return _number(node.given.get("activation"), torch.nan)


def _number(value: Any, default: float) -> float:
    return default if value is None else float(value)


def _token_ids(ids: list[str], n: int) -> tuple[int, ...]:
    found = {int(match[2]): int(match[1]) for name in ids if (match := re.fullmatch(r"E_(\d+)_(\d+)", str(name)))}
    return tuple(found.get(position, -1) for position in range(n))
