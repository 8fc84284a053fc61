"""One feature after another is switched off in the real model: what happened, beside what the graph said would."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..edits import Feature, Intervention, ablate
from ..interventions import intervene_each
from ..patching import patched
from ..plans import Held, Plan, held
from ..totals import total_effects
from .measured import Measured, Progress, Row
from .sample import Question, Sample

PIECE = 64
"""Ablations between two savings."""
RUNGS = ("replacement_frozen", "replacement", "replacement_open")
"""From the graph's linear model towards the real one: features switch on and off, norms respond, attention responds."""


def feature_of(question: Question, row: int) -> Feature:
    """A row of the graph as a feature."""
    nodes = question.graph.nodes
    return Feature(int(nodes.layer[row]), int(nodes.position[row]), int(nodes.index[row]))


def predictions(question: Question, sample: Sample, seed: int) -> dict[str, Float[Tensor, " sample"]]:
    """What is known of each feature before anything is switched off.

    `influence`, `direct` (edge to the target), `activation` and `random` say how much it should matter; `total`, `edge`
    and `gradient` what the target should change by: through all paths of the graph, by the direct edge, and to first order
    in the real model with attention held (`gradient_open`: with attention live).
    """
    graph, rows = question.graph, sample.rows
    edge = torch.zeros(len(graph.nodes), dtype=torch.float64)
    entries = slice(int(graph.rows.start[question.target]), int(graph.rows.start[question.target + 1]))
    edge[graph.rows.column[entries].long()] = graph.rows.value[entries].double()
    features = [feature_of(question, row) for row in rows.tolist()]
    activation = graph.nodes.activation[rows].double()
    return {
        "influence": graph.influence()[rows].double(),
        "direct": edge[rows].abs(),
        "activation": activation,
        "random": torch.rand(len(rows), generator=torch.Generator().manual_seed(seed), dtype=torch.float64),
        "total": -total_effects(graph, graph.nodes[question.target])[rows],
        "edge": -edge[rows],
        "gradient": first_order(question, features, activation, "frozen_attention"),
        "gradient_open": first_order(question, features, activation, "open"),
    }


def measure(question: Question, sample: Sample, measured: Measured, name: str, modes: Sequence[str], count: int, progress: Progress) -> dict[str, list[Row]]:
    """By mode, for each of the first `count` features: (KL in nats, change of the target) when it alone is switched off."""
    features = [feature_of(question, row) for row in sample.rows.tolist()]
    position = int(question.graph.nodes.position[question.target])
    before = question.value(question.recording.logits[position])

    def run(mode: str, part: range) -> list[Row]:
        variants: list[list[Intervention]] = [[ablate(features[number])] for number in part]
        rows = []
        for outcome in intervene_each(question.model, question.recording, variants, mode):
            rows.append([outcome.kl(position), float(question.value(outcome.raw_logits[position]) - before)])
        return rows

    return {mode: measured.fill(f"{name}: {mode}", min(count, len(features)), PIECE, lambda part, mode=mode: run(mode, part), progress) for mode in modes}


def first_order(question: Question, features: Sequence[Feature], activation: Float[Tensor, " feature"], mode: str) -> Float[Tensor, " feature"]:
    """The change of the target when each feature is switched off, to first order in the real model.

    One backward pass through the real MLPs, so errors respond too: the best that any linear account of this prompt can say.
    """
    slopes = _slopes(question, held(mode, None, question.model.language_model.n_layers))
    transcoders = question.model.transcoders
    found = torch.zeros(len(features), dtype=torch.float64)
    for layer in sorted({feature.layer for feature in features}):
        here = [number for number, feature in enumerate(features) if feature.layer == layer]
        index = torch.tensor([features[number].index for number in here])
        position = torch.tensor([features[number].position for number in here])
        for at in transcoders.writes(layer):
            rows = transcoders.decoder_rows(layer, index, at, slopes[at].dtype)
            found[here] -= (rows * slopes[at][position]).sum(-1).double() * activation[here]
    return found


def _slopes(question: Question, hold: Held) -> list[Float[Tensor, "pos d"]]:
    """By layer, the gradient of the target with respect to what is written where the dictionary writes."""
    model, recording = question.model, question.recording
    language_model = model.language_model
    row = language_model.architecture
    written = row.mlp_post_norm if model.transcoders.write == "residual" and row.mlp_post_norm else row.mlp
    nudges, handles = [], []
    for block in language_model.blocks:
        nudge = torch.zeros(1, len(recording.input_ids), language_model.d_model, dtype=language_model.dtype, device=language_model.device, requires_grad=True)
        handles.append(block.get_submodule(written).register_forward_hook(lambda module, args, output, nudge=nudge: output + nudge))
        nudges.append(nudge)
    position = int(question.graph.nodes.position[question.target])
    try:
        with torch.enable_grad(), patched(model, Plan({}, ()), recording, hold) as seen:
            language_model.module(input_ids=recording.input_ids[None].to(language_model.device), use_cache=False)
            question.value(seen.logits[0, position].float() if seen.logits.dtype != torch.float64 else seen.logits[0, position]).backward()
    finally:
        for handle in handles:
            handle.remove()
    for parameter in language_model.module.parameters():
        parameter.grad = None
    return [_gradient(nudge)[0].to("cpu", language_model.engine_dtype) for nudge in nudges]


def _gradient(nudge: Tensor) -> Tensor:
    return torch.zeros_like(nudge) if nudge.grad is None else nudge.grad


def target_change(rows: Sequence[Row]) -> Float[Tensor, " sample"]:
    """The measured changes of the target."""
    return torch.tensor([row[1] for row in rows], dtype=torch.float64)


def divergence(rows: Sequence[Row]) -> Float[Tensor, " sample"]:
    """The measured divergences."""
    return torch.tensor([row[0] for row in rows], dtype=torch.float64)
