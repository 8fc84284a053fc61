"""What a graph will cost, before it is computed: the prompt is run, a few rows are timed, the rest is counted."""

import time
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ..graphs.influence import Rows
from ..transcoders.replacement import ReplacementModel
from .limited import FEATURES_IN_FIRST_ROUND, folded_rows, most_influential
from .question import Prompt, Question
from .rowstore import RowStore
from .sources import batches
from .work import Work, prepare

SAMPLE = 0.04
"""Share of the work that is done to time it, at most."""


class CostEstimate(NamedTuple):
    """What a graph will cost."""

    seconds: float
    """From the prompt to the finished graph, the model being loaded."""
    memory: int
    """Bytes of memory of this process at the peak."""
    disk: int
    """Bytes in files while it is computed."""
    rows: int
    active_features: int
    tokens: int
    targets_at_once: int
    """In one pass over the whole prompt."""


def estimate(model: ReplacementModel, question: Question | Prompt, *, resumable: bool = False) -> CostEstimate:
    """Predict what the graph of a question takes; meant to be within 30% on a machine whose other load does not change.

    Args:
        question: a `Question`, or a prompt as text or token ids, about which nothing else is said.
        resumable: whether `partial` will be given to `attribute`.

    Raises:
        PromptError, TargetError, OptionError: as `attribute`.

    >>> import unweave                                                        # doctest: +SKIP
    >>> question = unweave.Question("The capital of France is", max_features=500)       # doctest: +SKIP
    >>> unweave.estimate(unweave.load("smollm2"), question).seconds           # doctest: +SKIP
    """
    begin = time.perf_counter()
    asked = prepare(model, question if isinstance(question, Question) else Question(question), resumable)
    work = Work(asked, lambda share: None)
    store, logits = RowStore(asked.local.errors.dtype), work.logit_targets()
    work.fill(store, [logits])
    before = time.perf_counter() - begin
    none, weights = torch.empty(0, dtype=torch.int64), torch.tensor([target.weight for target in asked.logits])
    n_logits = len(weights)
    if asked.most is None:
        rows = torch.arange(len(asked.local.features))
        after = _finishing(work, n_logits)
    else:
        # Those that the logits see strongest stand for all that will be chosen.
        begin = time.perf_counter()
        rows = most_influential(store, work.sources, none, weights, asked.most, take=asked.most)
        ranking = (time.perf_counter() - begin) / n_logits
        begin = time.perf_counter()
        folded_rows(store, work.sources, none, n_logits)
        folding = (time.perf_counter() - begin) / n_logits
        after = _rows_ranked(asked.most, n_logits) * ranking + (asked.most + n_logits) * folding
    during = _passes(work, rows) if len(rows) else 0.0
    batch = max(asked.plan.least, asked.plan.columns // asked.local.n_positions)
    return CostEstimate(
        before + during + after, asked.plan.memory, asked.plan.disk, len(rows) + n_logits, len(asked.local.features),
        asked.local.n_positions, batch
    )  # fmt: skip


def _rows_ranked(most: int, n_logits: int) -> int:
    """How many rows all rankings together read."""
    there, read = 0, 0
    while there < most:
        read += there + n_logits
        there += min(max(FEATURES_IN_FIRST_ROUND, there), most - there)
    return read


def _passes(work: Work, features: Int[Tensor, " feature"]) -> float:
    """Seconds that the rows of some features take, from a few passes."""
    active = work.local.features
    features = features[torch.argsort(active.position[features], stable=True)]
    parts = [features[part] for part in batches(active.position[features], work.plan.columns, work.plan.least)]
    costs = torch.tensor([_cost(work, part) for part in parts])
    total = float(costs.sum())
    order = torch.argsort((costs - total / len(costs)).abs()).tolist()  # those nearest the mean first
    spent, done = 0.0, 0.0
    for number in order:
        part = parts[number]
        if done and done + float(costs[number]) > SAMPLE * total:
            break
        share = SAMPLE * total / float(costs[number])
        if share < 1:  # one pass is too much already: a thinner one
            part = part[:: max(1, min(int(1 / share), len(part) // work.plan.least or 1))]
        begin = time.perf_counter()
        work.fill(RowStore(work.local.errors.dtype), [work.feature_targets(part)])
        spent, done = spent + time.perf_counter() - begin, done + _cost(work, part)
    return spent * total / done


def _cost(work: Work, features: Int[Tensor, " feature"]) -> float:
    """Operations of one pass."""
    active, attention, skip = (
        work.local.features,
        work.local.frozen.layers[0].attention,
        work.local.frozen.layers[0].skip,
    )
    layer, seen = active.layer[features].double(), float(active.position[features].max()) + 1
    dense = attention.output.numel() + attention.value.numel() + (0 if skip is None else skip.numel())
    heads, d = attention.output.shape[1], work.local.errors.shape[-1]
    columns = work.sources.lengths[active.layer[features], active.position[features]].double()
    inner = attention.output.numel() + seen * attention.value.numel()
    return float(2 * (inner + layer * seen * (dense + heads * seen / 2) + 2 * d * columns).sum())


def _finishing(work: Work, n_logits: int) -> float:
    """Seconds from a full graph's rows to its residuals and scores, from a piece of such rows."""
    lengths, features = work.sources.lengths, work.local.features
    edges = int(lengths[features.layer, features.position].sum()) + n_logits * int(lengths[-1, -1])
    count = min(edges, 1 << 20)
    start = torch.linspace(0, count, max(2, round(len(features) * count / edges)), dtype=torch.int64)
    piece = Rows(start, torch.randint(len(features), (count,), dtype=torch.int32), torch.rand(count))
    begin = time.perf_counter()
    piece.row_sums()
    piece.row_sizes()
    piece.row_sums(lambda entries: piece.value[entries].abs() * (piece.column[entries] > 1))
    torch.zeros(len(work.sources.layer), dtype=torch.float64).index_add_(
        0, piece.column.long(), piece.value.abs().double() * 0.5
    )
    return (time.perf_counter() - begin) * edges / count
