"""Attribution: which rows of the graph to compute, in which order; no tensor algebra of its own."""

import hashlib
import logging
import math
import tempfile
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..base.mapped import release, scratch
from ..base.progress import Progress
from ..errors import InexactAttribution
from ..graphs.graph import Graph
from ..graphs.influence import Rows
from ..graphs.nodes import NodeTable
from ..graphs.provenance import Provenance
from ..transcoders.replacement import LocalReplacement, ReplacementModel
from ..version import __version__
from .limited import folded_rows, most_influential
from .question import Question
from .rowstore import RowStore
from .targets import LogitTarget
from .work import Asked, Work, prepare

logger = logging.getLogger(__name__)


def answer(
    model: ReplacementModel,
    question: Question,
    *,
    partial: str | Path | None = None,
    progress: Progress | None = None,
) -> Graph:
    """The attribution graph of a question, unpruned; see `attribute`, which adds labels of features.

    Args:
        partial: a file for the rows of a large graph while they are computed, from which the same call goes on after it
            was stopped or killed; gone when the graph is done.
        progress: called with the share of the work that is done.

    Raises:
        OptionError, PromptError, TargetError: the model cannot be asked this.
        InexactAttribution: the frozen model does not reproduce the model, or edges are not finite.
        FileError: `partial` cannot be written, or is in use.

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> unweave.answer(model, unweave.Question("the capital of Texas is", max_features=20))
    Graph('the capital of Texas is': 20 features, 36 errors, 6 embeddings, 1 logits, 389 edges)
    """
    asked = prepare(model, question, resumable=partial is not None)
    local, logits, plan = asked.local, asked.logits, asked.plan
    work = Work(asked, progress or (lambda share: None))
    features = len(local.features)
    store = None
    if plan.on_disk or asked.most is not None:
        path = None if partial is None or not plan.on_disk else Path(partial).expanduser()
        folder = Path(tempfile.gettempdir()) if path is None else path.parent
        store = RowStore(
            local.errors.dtype, path, None if path is None else _facts(asked), folder if plan.on_disk else None
        )
    try:
        if asked.most is not None and store is not None:
            chosen, rows = _limited_rows(work, store, asked.most)
        else:
            chosen, rows = torch.arange(features), _all_rows(work, store, plan.mapped)
    except BaseException:
        if store is not None:
            if store.path is not None and len(store):
                logger.warning("%d rows are kept in %s; the same call goes on from there", len(store), store.path)
            store.close(remove=False)
        raise
    if store is not None:
        store.close()
    nodes = _node_table(local, logits, chosen)
    bias, preactivation = _row_facts(local, logits, nodes, chosen)
    nothing = torch.zeros_like(bias)
    provenance = _provenance(model, question, asked)
    dtype = str(local.errors.dtype).removeprefix("torch.")
    del work, local, asked
    graph = Graph(nodes, rows, bias, preactivation, nothing, nothing, None, None, provenance)
    residual = float(graph.residual().max())
    if not math.isfinite(residual):
        raise InexactAttribution(
            f"edges are not finite: on their way down this model gradients outgrow {dtype}; load it with "
            f"--dtype float64 (dtype='float64')"
        )
    return graph.with_provenance(residual=residual, scores=tuple(graph.scores()))


def _provenance(model: ReplacementModel, question: Question, asked: Asked) -> Provenance:
    local, logits, language_model = asked.local, asked.logits, model.language_model
    return Provenance(
        model=language_model.name,
        n_layers=local.n_layers,
        prompt=question.prompt if isinstance(question.prompt, str) else None,
        tokens=language_model.token_texts(asked.ids),
        input_ids=tuple(asked.ids.tolist()),
        logit_labels=tuple(target.label for target in logits),
        target_tokens=tuple(target.tokens for target in logits),
        transcoders=model.transcoders.name,
        transcoders_kind=model.transcoders.kind,
        transcoders_sha256=model.transcoders.sha256,
        transcoders_weights_sha256=model.transcoders.weights_sha256,
        unread_keys=language_model.unread_keys,
        dtype=str(language_model.dtype).removeprefix("torch."),
        precision="exact" if asked.multiply is None else "fast",
        position_zero=question.position_zero,
        max_features=question.max_features,
        active_features=len(local.features),
        logits_error=local.logits_error,
        unexplained=local.unexplained,
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _facts(asked: Asked) -> dict[str, Any]:
    """What rows in a partial file depend on, beyond rounding."""
    local, digest = asked.local, hashlib.sha256()
    for parameter in local.model.module.parameters():
        digest.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    active = hashlib.sha256(
        torch.stack([local.features.layer, local.features.position, local.features.index]).numpy().data
    )
    targets = [
        [t.tokens, t.label, t.weight if t.tokens == () else 0, t.direction.tolist() if t.tokens == () else []]
        for t in asked.logits
    ]
    return {
        "format": "unweave partial graph", "schema_version": 1, "version": __version__, "model": local.model.name,
        "weights": digest.hexdigest(),
        "transcoders": local.transcoders.sha256, "input_ids": asked.ids.tolist(), "positions": local.n_positions,
        "targets": targets, "most": asked.most,
        "position_zero": local.position_zero, "precision": str(asked.multiply), "dtype": str(local.model.dtype),
        "features": active.hexdigest(),
    }  # fmt: skip


def _all_rows(work: Work, store: RowStore | None, mapped: bool) -> Rows:
    """The rows of all features and logits, written straight into their place; or by way of a store that outlives
    this process."""
    features, sources, n_logits = work.local.features, work.sources, len(work.logits)
    everything = torch.arange(len(features))
    work.total = work.cost(everything)
    lengths = torch.zeros(len(sources.layer) + n_logits, dtype=torch.int64)
    lengths[: len(features)] = sources.lengths[features.layer, features.position]
    lengths[len(sources.layer) :] = sources.lengths[-1, -1]
    start = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    total, dtype = int(start[-1]), work.local.errors.dtype
    made = [
        scratch(total, kind, store.folder if store else None) if mapped else torch.empty(total, dtype=kind)
        for kind in (torch.int32, dtype)
    ]
    rows = Rows(start, *made)

    def write(layer: int, position: int, names: Tensor, weight: Tensor) -> None:
        entries = slice(int(start[names[0]]), int(start[names[-1] + 1]))
        rows.column[entries].view(weight.shape).copy_(sources.visible(layer, position).expand(weight.shape))
        rows.value[entries].view(weight.shape).copy_(weight)
        release(rows.column, rows.value)

    if store is None:
        for targets in chain([work.logit_targets()], work.passes(everything)):
            for block in work.blocks(targets):
                write(*block[:2], block.name, block.weight)
        return rows
    logits = work.logit_targets()
    work.fill(store, [logits] if int(logits.name[0]) not in store else [])
    work.fill_features(store, everything)
    where = torch.stack([features.layer, features.position], dim=1)
    groups, sizes = torch.unique_consecutive(where, dim=0, return_counts=True)
    for (layer, position), names in zip(groups.tolist(), everything.split(sizes.tolist()), strict=True):
        for part in names.split(64):
            write(layer, position, part, torch.stack([store.row(int(name)) for name in part]))
    write(
        work.local.n_layers,
        work.local.n_positions - 1,
        logits.name,
        torch.stack([store.row(int(name)) for name in logits.name]),
    )
    return rows


def _limited_rows(work: Work, store: RowStore, most: int) -> tuple[Int[Tensor, " chosen"], Rows]:
    """The `most` most influential features, found round by round, and the rows among them; the rest folded into
    errors."""
    n_features, weights = len(work.local.features), torch.tensor([target.weight for target in work.logits])
    work.total = work.cost(torch.arange(n_features))
    logits = work.logit_targets()
    work.fill(store, [logits] if int(logits.name[0]) not in store else [])
    chosen = torch.empty(0, dtype=torch.int64)
    while len(more := most_influential(store, work.sources, chosen, weights, most)):
        chosen = torch.sort(torch.cat([chosen, more])).values
        work.total = work.cost(chosen) * most // len(chosen)
        work.fill_features(store, more)
    return chosen, folded_rows(store, work.sources, chosen, len(weights))


def _node_table(local: LocalReplacement, logits: list[LogitTarget], chosen: Int[Tensor, " chosen"]) -> NodeTable:
    features = local.features
    return NodeTable.build(
        n_layers=local.n_layers,
        features=torch.stack([features.layer[chosen], features.position[chosen], features.index[chosen]], dim=1),
        activations=features.activation[chosen],
        errors=torch.cartesian_prod(torch.arange(local.n_layers), torch.arange(local.n_positions)),
        error_norms=local.errors.norm(dim=-1).flatten(),
        embeddings=local.recording.input_ids,
        embedding_norms=local.recording.embeddings.norm(dim=-1),
        logits=torch.tensor([[target.token, target.position] for target in logits]),
        probabilities=torch.tensor([target.weight for target in logits]),
    )


def _row_facts(
    local: LocalReplacement, logits: list[LogitTarget], nodes: NodeTable, chosen: Tensor
) -> tuple[Tensor, Tensor]:
    """Bias and pre-activation of every row: what constants alone give it, by one forward pass of them; what the
    model gave."""
    resid_mid, final = local.frozen.run(torch.zeros_like(local.recording.final), list(local.constants))
    bias = local.errors.new_zeros(len(local.features))
    for number, layer in enumerate(local.frozen.layers):
        span = local.layer_slice(number)
        encoder, offset = local.encoders(number, torch.arange(span.start, span.stop))
        bias[span] = (encoder * layer.read_forward(resid_mid[number])[local.features.position[span]]).sum(-1) + offset
    read = local.frozen.final.forward(final)[-1]
    facts = torch.zeros(2, len(nodes), dtype=bias.dtype)
    facts[:, nodes.features] = torch.stack([bias[chosen], local.features.preactivation[chosen]])
    facts[0, nodes.logits] = torch.stack([target.direction @ read + target.bias for target in logits])
    facts[1, nodes.logits] = torch.tensor([target.value for target in logits], dtype=bias.dtype)
    return facts[0], facts[1]
