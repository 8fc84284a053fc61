"""Feature to feature: predicted edges and paths against what the later feature's pre-activation really does."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.progress import Progress
from ..graphs.nodes import NodeKind
from ..graphs.totals import removals
from ..interventions.edits import ablate
from ..interventions.interventions import intervene_each
from .ablations import feature_of
from .measured import Measurements, Row
from .sample import JudgedGraph, Sample

TARGETS = 12
"""Later features looked at for each feature that is switched off."""
PIECE = 8


@dataclass(frozen=True)
class Pairs:
    """Features (rows of the graph), for each some later ones, and the changes that the graph predicts there."""

    sources: Int[Tensor, " source"]
    targets: Int[Tensor, "source target"]
    direct: Float[Tensor, "source target"]
    """By the direct edge alone."""
    total: Float[Tensor, "source target"]
    """By all paths."""


def choose_pairs(question: JudgedGraph, sample: Sample, reach: int, seed: int) -> Pairs:
    """For each sampled feature `TARGETS` features, at most `reach` layers on: half those it should move most, half
    at random."""
    graph = question.graph
    nodes, generator = graph.nodes, torch.Generator().manual_seed(seed)
    change = removals(graph, sample.rows)
    sources, targets, direct, total = [], [], [], []
    for number, row in enumerate(sample.rows.tolist()):
        layer = int(nodes.layer[row])
        near = (
            (nodes.kind == NodeKind.FEATURE)
            & (nodes.layer > layer)
            & (nodes.layer <= layer + reach)
            & (change[:, number] != 0)
        )
        found = torch.nonzero(near).flatten()
        if len(found) < TARGETS:
            continue
        order = found[torch.argsort(change[found, number].abs(), descending=True)]
        rest = order[TARGETS // 2 :]
        chosen = torch.cat(
            [order[: TARGETS // 2], rest[torch.randperm(len(rest), generator=generator)[: TARGETS - TARGETS // 2]]]
        )
        edges = torch.zeros(len(chosen), dtype=torch.float64)
        for place, target in enumerate(chosen.tolist()):
            entries = slice(int(graph.rows.start[target]), int(graph.rows.start[target + 1]))
            at = torch.nonzero(graph.rows.column[entries] == row).flatten()
            edges[place] = -float(graph.rows.value[entries][at].sum())
        sources.append(row)
        targets.append(chosen)
        direct.append(edges)
        total.append(change[chosen, number].double())
    if not sources:
        empty = torch.zeros(0, TARGETS, dtype=torch.float64)
        return Pairs(torch.zeros(0, dtype=torch.int64), empty.long(), empty, empty)
    return Pairs(torch.tensor(sources), torch.stack(targets), torch.stack(direct), torch.stack(total))


def measure_pairs(
    question: JudgedGraph, pairs: Pairs, measured: Measurements, name: str, reach: int, progress: Progress
) -> tuple[list[Row], list[Row]]:
    """For each source the changes of its targets' pre-activations, attention held: MLPs in between held, and live."""
    nodes = question.graph.nodes
    n_layers = question.model.language_model.n_layers

    def run(held_between: bool, part: range) -> list[Row]:
        rows: dict[int, Row] = {}
        for layer in nodes.layer[pairs.sources[part.start : part.stop]].unique().tolist():
            here = [number for number in part if int(nodes.layer[pairs.sources[number]]) == layer]
            seen = pairs.targets[here].unique()
            place = torch.searchsorted(seen, pairs.targets[here])
            between = range(layer, min(layer + reach, n_layers)) if held_between else None
            variants = [[ablate(feature_of(question, int(pairs.sources[number])))] for number in here]
            watch = [feature_of(question, row) for row in seen.tolist()]
            for number, at, outcome in zip(
                here,
                place,
                intervene_each(question.model, question.recording, variants, layers=between, watch=watch),
                strict=True,
            ):
                rows[number] = (outcome.preactivations[1] - outcome.preactivations[0])[at].tolist()
        return [rows[number] for number in part]

    n = len(pairs.sources)
    held = measured.fill(f"{name}: pairs held", n, PIECE, lambda part: run(True, part), progress)
    live = measured.fill(f"{name}: pairs live", n, PIECE, lambda part: run(False, part), progress)
    return held, live
