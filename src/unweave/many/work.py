"""Tracing one of many prompts: what every process does, whoever started it."""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..attribution.attribution import answer
from ..attribution.promoted import with_promoted
from ..attribution.work import bounded
from ..base.hub import first_line
from ..errors import UnweaveError
from ..features.graphs import with_labels
from ..features.pages import Pages, pages_of
from ..graphs.graph import Graph
from ..graphs.nodes import NodeKind
from ..graphs.pruning import prune
from ..models.chats import chat_text, conversation_text
from ..models.language_model import LanguageModel
from ..transcoders.replacement import ReplacementModel, load
from .lines import PromptJob, Request

STRONGEST = 10
"""Features of a graph that the index names."""
VALUES = 64
"""Numbers of each tensor by which one model's weights are told from another's."""


@dataclass(frozen=True)
class Source:
    """What prompts are traced with, by name, so that every process can load it."""

    model: str
    transcoders: str | None
    dtype: str = "float32"
    device: str = "cpu"
    features: str | None = None
    """Folder of feature pages; None: those that ship, if of this dictionary."""
    folder: str = ""
    """Where relative names are meant from."""
    threads: int | None = None
    """Of torch, in this process."""
    max_memory: str | int | None = None
    """Of each process; see `attribute`."""

    def open(self) -> "Tools":
        """Load it; see `open_tools`."""
        return open_tools(self)


class Tools(NamedTuple):
    """A source, loaded."""

    model: ReplacementModel
    pages: Pages | None
    identity: dict[str, str]
    """What tells it from others: names, and hashes of weights."""
    max_memory: str | int | None = None

    def work(self, job: PromptJob) -> "Traced":
        """Trace one prompt; an error becomes a fact."""
        return trace(self, job.request, job.digest)


class Traced(NamedTuple):
    """What became of a prompt: facts for the index, and the graph's file, unless there is an error."""

    facts: dict[str, Any]
    graph: bytes | None


def open_tools(source: Source) -> Tools:
    """Load a model, a dictionary and its pages.

    Raises:
        UnweaveError: see `load`.
    """
    if source.folder and Path(source.folder).is_dir():
        os.chdir(source.folder)
    if source.threads is not None:
        torch.set_num_threads(source.threads)
    model = load(source.model, source.transcoders, dtype=source.dtype, device=source.device)
    pages = pages_of(model.transcoders, None if source.features is None else Path(source.features))
    names = {"model": source.model, "transcoders": model.transcoders.name}
    hashes = {
        "model_sha256": fingerprint(model.language_model),
        "transcoders_sha256": model.transcoders.sha256,
        "transcoders_weights_sha256": model.transcoders.weights_sha256,
        "dtype": source.dtype,
    }
    return Tools(model, pages, names | hashes, source.max_memory)


def fingerprint(model: LanguageModel) -> str:
    """A hash of some of every tensor's numbers: cheap, and enough to tell one model's weights from another's."""
    digest = hashlib.sha256()
    for name, tensor in model.module.named_parameters():
        flat = tensor.detach().flatten()
        some = flat[
            torch.linspace(0, len(flat) - 1, min(VALUES, len(flat)), dtype=torch.float64).long().to(flat.device)
        ]
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + some.cpu().double().numpy().tobytes())
    return digest.hexdigest()


def trace(tools: Tools, request: Request, digest: str) -> Traced:
    """Trace one prompt; an error becomes a fact."""
    begin = time.perf_counter()
    try:
        facts, content = _trace(tools, request, digest)
    except UnweaveError as error:
        facts, content = {"error": str(error), "error_kind": type(error).__name__}, None
    except Exception as error:  # whatever it is, the other prompts go on
        facts, content = (
            {"error": f"{type(error).__name__}: {first_line(error)}", "error_kind": type(error).__name__},
            None,
        )
    return Traced({**facts, "seconds": round(time.perf_counter() - begin, 4)}, content)


def _trace(tools: Tools, request: Request, digest: str) -> tuple[dict[str, Any], bytes]:
    asked, model = request.options, tools.model
    question = asked.question(prompt_of(model.language_model, request), tools.max_memory)
    begin = time.perf_counter()
    graph = answer(model, bounded(question, model.transcoders))
    seconds = time.perf_counter() - begin
    kept = with_promoted(prune(graph, asked.node_threshold, asked.edge_threshold), model)
    if tools.pages is not None:
        kept = with_labels(kept, tools.pages)
    kept = kept.with_provenance(extra={**kept.provenance.extra, "request": digest})
    content = kept.to_bytes()
    return {**facts_of(graph, kept), "attribution_seconds": round(seconds, 4), "bytes": len(content)}, content


def prompt_of(model: LanguageModel, request: Request) -> str | list[int]:
    """What the model reads.

    Raises:
        PromptError: a conversation that its chat template refuses, or no template.
    """
    if request.messages is not None:
        return conversation_text(model, [{"role": role, "content": content} for role, content in request.messages])
    if request.ids is not None:
        return list(request.ids)
    text = request.text or ""
    return chat_text(model, text, request.options.system) if request.options.chat and text else text


def facts_of(graph: Graph, kept: Graph) -> dict[str, Any]:
    """What the index says of a graph and of what pruning kept of it."""
    facts, scores = graph.provenance, graph.scores()
    logits = list(graph.nodes)[graph.nodes.logits]
    influence = kept.influence()[kept.nodes.features]
    strongest = [
        kept.nodes[kept.nodes.features.start + row]
        for row in influence.topk(min(STRONGEST, len(influence))).indices.tolist()
    ]
    labels, promotes = (kept.provenance.extra.get(key, {}) for key in ("labels", "promotes"))
    return {
        "tokens": list(facts.tokens),
        "token_ids": list(facts.input_ids),
        "position": logits[0].position,
        "targets": [
            {"token": label, "id": node.index, "probability": node.activation}
            for label, node in zip(facts.logit_labels, logits, strict=True)
        ],
        "replacement": scores.replacement,
        "completeness": scores.completeness,
        "logits_error": facts.logits_error,
        "unexplained": facts.unexplained,
        "residual": facts.residual,
        "active_features": facts.active_features,
        "features": int((graph.nodes.kind == NodeKind.FEATURE).sum()),
        "edges": graph.n_edges,
        "kept_nodes": len(kept.nodes),
        "kept_edges": kept.n_edges,
        "strongest": [
            {
                "node": node.id,
                "token": graph.tokens[node.position],
                "influence": float(influence[node.row - kept.nodes.features.start]),
                "activation": node.activation,
                "promotes": promotes.get(f"{node.layer}_{node.index}", []),
                "label": labels.get(node.id, ""),
            }
            for node in strongest
        ],
        "created": facts.created,
        "version": facts.version,
    }
