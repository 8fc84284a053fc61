"""One feature after another is switched off in the real model: what happened, beside what the graph said would."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.choices import Mode
from ..base.progress import Progress
from ..graphs.totals import total_effects
from ..interventions.attribution_patching import slope_effects
from ..interventions.edits import Feature, Intervention, ablate
from ..interventions.interventions import intervene_each
from .measured import Measurements, Row
from .sample import JudgedGraph, Sample

PIECE = 64
"""Ablations between two savings."""
RUNGS = ("replacement_frozen", "replacement", "replacement_open")
"""From the graph's linear model towards the real one: features switch on and off, norms respond, attention responds."""


def feature_of(question: JudgedGraph, row: int) -> Feature:
    """A row of the graph as a feature."""
    nodes = question.graph.nodes
    return Feature(int(nodes.layer[row]), int(nodes.position[row]), int(nodes.index[row]))


def predictions(question: JudgedGraph, sample: Sample, seed: int) -> dict[str, Float[Tensor, " sample"]]:
    """What is known of each feature before anything is switched off.

    `influence`, `direct` (edge to the target), `activation` and `random` say how much it should matter; `total` and
    `edge` what the target should change by, through all paths of the graph and by the direct edge; `slope` the same
    to first order in the real model with attention held, `slope_open` with attention live, `slope_norms_held` with
    norms held too.
    """
    graph, rows = question.graph, sample.rows
    edge = torch.zeros(len(graph.nodes), dtype=torch.float64)
    entries = slice(int(graph.rows.start[question.target]), int(graph.rows.start[question.target + 1]))
    edge[graph.rows.column[entries].long()] = graph.rows.value[entries].double()
    return {
        "influence": graph.influence()[rows].double(),
        "direct": edge[rows].abs(),
        "activation": graph.nodes.activation[rows].double(),
        "random": torch.rand(len(rows), generator=torch.Generator().manual_seed(seed), dtype=torch.float64),
        "total": -total_effects(graph, graph.nodes[question.target])[rows],
        "edge": -edge[rows],
        "slope": _slope(question, rows, "frozen_attention"),
        "slope_open": _slope(question, rows, "open"),
        "slope_norms_held": _slope(question, rows, "frozen_norms"),
    }


def _slope(question: JudgedGraph, rows: Int[Tensor, " sample"], mode: Mode) -> Float[Tensor, " sample"]:
    return -slope_effects(question.model, question.graph, question.recording, question.target, mode)[rows].double()


def measure(
    question: JudgedGraph,
    sample: Sample,
    measured: Measurements,
    name: str,
    modes: Sequence[Mode],
    count: int,
    progress: Progress,
) -> dict[str, list[Row]]:
    """By mode, for each of the first `count` features: (KL in nats, change of the target) when it alone is switched
    off."""
    features = [feature_of(question, row) for row in sample.rows.tolist()]
    position = int(question.graph.nodes.position[question.target])
    before = question.value(question.recording.logits[position])

    def run(mode: Mode, part: range) -> list[Row]:
        variants: list[list[Intervention]] = [[ablate(features[number])] for number in part]
        rows = []
        for outcome in intervene_each(question.model, question.recording, variants, mode):
            rows.append([outcome.kl(position), float(question.value(outcome.raw_logits[position]) - before)])
        return rows

    return {
        mode: measured.fill(
            f"{name}: {mode}", min(count, len(features)), PIECE, lambda part, mode=mode: run(mode, part), progress
        )
        for mode in modes
    }


def target_change(rows: Sequence[Row]) -> Float[Tensor, " sample"]:
    """The measured changes of the target."""
    return torch.tensor([row[1] for row in rows], dtype=torch.float64)


def divergence(rows: Sequence[Row]) -> Float[Tensor, " sample"]:
    """The measured divergences."""
    return torch.tensor([row[0] for row in rows], dtype=torch.float64)
