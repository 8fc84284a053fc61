"""Telling graphs, models and dictionaries apart, describing them, converting them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..base.catalogue import PAIRS
from ..base.files import check_graph_name
from ..errors import OptionError, TranscoderError, UnsupportedModel, UnweaveError
from ..explanation.summary import summarize
from ..graphs.graph import Graph
from ..graphs.interchange import write_json
from ..graphs.limits import known_limits
from ..graphs.nodes import NodeKind
from ..graphs.pruning import prune
from ..models.architectures import ARCHITECTURES, architecture_of
from ..models.loading import model_config
from ..transcoders.formats import read_transcoders, write_transcoders
from ..transcoders.layers import LAYER_FILES
from ..transcoders.transcoders import Transcoders


def kind_of(name: str) -> str:
    """What a name stands for: "graph", "transcoders" or "model".

    Raises:
        OptionError: a file or folder that is none of these.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return "graph"
    if "*" in name:
        return "transcoders"
    if path.is_dir():
        if (
            (path / "config.yaml").is_file()
            or (path / "params_layer_0.safetensors").is_file()
            or any(next(path.rglob(file), None) for file in LAYER_FILES)
        ):
            return "transcoders"
        if (path / "config.json").is_file():
            return "model"
        raise OptionError(
            f"{path} holds neither a dictionary (config.yaml, or layers' folders) nor a model (config.json)"
        )
    if name.count("/") > 1 and not name.startswith((".", "/", "~")) and not path.suffix:
        return "transcoders"
    if name in PAIRS or (name.count("/") == 1 and not name.startswith((".", "/", "~")) and not path.suffix):
        return "model"
    raise OptionError(
        f"nothing at {name}: give a graph file, a model (a short name, a folder, org/name) or a dictionary folder"
    )


def inspect(name: str) -> dict[str, Any]:
    """The facts about a graph file, a model or a dictionary; plain data, fit for JSON.

    Raises:
        UnweaveError: it cannot be found or read.
    """
    describe: dict[str, Callable[[str], dict[str, Any]]] = {
        "graph": _graph_facts,
        "model": _model_facts,
        "transcoders": _transcoder_facts,
    }
    kind = kind_of(name)
    try:
        return {"kind": kind, "name": name, **describe[kind](name)}
    except UnweaveError:
        if kind != "model" or Path(name).expanduser().exists():
            raise
        return _hub_dictionary(name)


def _hub_dictionary(name: str) -> dict[str, Any]:
    """A hub name that is no model may be a dictionary; if it is neither, the model's error is the clearer one."""
    try:
        return {"kind": "transcoders", "name": name, **_transcoder_facts(name)}
    except TranscoderError:
        return {"kind": "model", "name": name, **_model_facts(name)}


def _graph_facts(name: str) -> dict[str, Any]:
    graph = Graph.load(name)
    facts = graph.provenance
    counts = {kind.name.lower() + "s": int((graph.nodes.kind == kind).sum()) for kind in NodeKind}
    logits = [
        {"token": label, "weight": graph.nodes[row].activation, "node": graph.nodes[row].id}
        for label, row in zip(facts.logit_labels, range(graph.nodes.logits.start, graph.nodes.logits.stop), strict=True)
    ]
    here, worst = graph.scores(), graph.damage()
    again = float(graph.residual().max()) if facts.origin == "unweave" and len(graph.nodes) else None
    exactness = {"logits": facts.logits_error, "residual": facts.residual, "residual_of_this_file": again}
    response = {
        "units": facts.units, "baseline": facts.baseline, "instead": facts.instead, "attention": facts.attention,
        "agreement": facts.agreement, "mediated": facts.mediated,
    }  # fmt: skip
    told = {} if graph.is_response else summarize(graph, graph)
    return {
        "graph": facts.kind, **(response if graph.is_response else {}),
        "prompt": facts.prompt, "tokens": list(facts.tokens), "model": facts.model, "transcoders": facts.transcoders,
        "transcoders_sha256": facts.transcoders_sha256, "nodes": len(graph.nodes), **counts, "edges": graph.n_edges,
        "pruning": None if facts.pruning is None else list(facts.pruning), "unpruned_nodes": facts.unpruned_nodes,
        "unpruned_edges": facts.unpruned_edges, "targets": logits,
        "scores": None if facts.scores is None else {"replacement": facts.scores[0], "completeness": facts.scores[1]},
        "scores_of_this_file": {"replacement": here.replacement, "completeness": here.completeness},
        "position_zero": facts.position_zero, "exactness": exactness,
        "two_nodes_in_one_id": facts.extra.get("ambiguous") or None,
        "known_circuits": list(known_limits(facts)),
        "damaged": None if worst is None else f"the weights into {worst.id} do not add up",
        "max_features": facts.max_features, "active_features": facts.active_features, "dtype": facts.dtype,
        "precision": facts.precision, "version": facts.version, "created": facts.created, "origin": facts.origin,
        "input": told.get("input"), "paths": told.get("paths", []), "most_influential": told.get("features", []),
        "largest_effects": told.get("effects", []), "bands": told.get("bands", []),
    }  # fmt: skip


def _model_facts(name: str) -> dict[str, Any]:
    config = model_config(name)
    family = str(config.get("model_type"))
    inner = ARCHITECTURES[family].text if family in ARCHITECTURES else None
    if inner is not None:
        config = {**config, **config[inner]}
    facts = {
        "family": family,
        "layers": config.get("num_hidden_layers", config.get("n_layer")),
        "d_model": config.get("hidden_size", config.get("n_embd")),
        "vocabulary": config.get("vocab_size"),
        "context": config.get("max_position_embeddings", config.get("n_positions")),
    }
    try:
        architecture_of(config)
    except UnsupportedModel as error:
        return {**facts, "exact": False, "why": str(error)}
    return {
        **facts,
        "exact": True,
        "why": "every config key of this family is covered; each trace checks the frozen logits against the model's",
    }


def _transcoder_facts(name: str) -> dict[str, Any]:
    found: Transcoders = read_transcoders(name)
    return {
        "transcoders_kind": found.kind, "model_name": found.model_name, "layers": len(found.layers),
        "widths": list(found.widths),
        "d_model": found.d_model, "reads": found.read, "writes": found.write, "skip": found.has_skip,
        "activation": type(found.layers[0].activation).__name__,
        "stored_as": str(found.layers[0].encoder.stored.dtype).removeprefix("torch."), "sha256": found.sha256,
    }  # fmt: skip


def convert_any(source: str, out: Path, *, compact: bool, scan: str | None, thresholds: tuple[float, float]) -> Path:
    """Convert a graph (by the suffix of `out`) or a dictionary (to a folder).

    Raises:
        OptionError: `out` does not fit the source.
        UnweaveError: the source cannot be read or the result not written.
    """
    if Path(source).expanduser().is_file():
        if compact:
            raise OptionError(f"--compact is for dictionaries; {source} is a graph")
        if scan is not None and out.suffix != ".json":
            raise OptionError(f"--scan names the model in JSON; {out} is not to be .json")
        check_graph_name(out)
        graph = prune(Graph.load(source), *thresholds)
        return write_json(graph, out, scan) if out.suffix == ".json" else graph.save(out)
    if out.suffix in (".json", ".safetensors"):
        raise OptionError(f"{source} is no file, so it is taken for a dictionary, which becomes a folder, not {out}")
    if scan is not None or thresholds != (1.0, 1.0):
        raise OptionError(f"--scan and thresholds are for graphs; {source} is taken for a dictionary")
    return write_transcoders(read_transcoders(source), out, compact=compact)
