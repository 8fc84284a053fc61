"""Response graphs: which units a prediction depends on, and what each does to the next, everything else responding."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.choices import Attention, Baseline, Ranking, UnitKind
from ..base.kinds import typed
from ..errors import OptionError
from ..graphs.graph import Graph
from ..models.language_model import LanguageModel
from ..transcoders.replacement import ReplacementModel
from .asking import Prompt, ResponseQuestion, ask, target_start
from .assembly import agreement_of, assembled
from .ranking import ranking_of, strengths
from .routes import Router
from .setting import Setting
from .tangents import Starts
from .targets import ResponseTargetSpec
from .units import Units, strongest

ROWS_AT_ONCE, NUMBERS_AT_ONCE = 256, 1 << 25
"""Targets in one sweep, and their gradients (targets x positions x d)."""
WORTH = 48
"""Targets x positions for which reading all weights once more costs as much as their products."""


@typed
def response_graph(
    model: ReplacementModel | LanguageModel,
    prompt: Prompt,
    target: ResponseTargetSpec | None = None,
    instead: Prompt | None = None,
    units: UnitKind = "neurons",
    baseline: Baseline = "auto",
    most: int = 300,
    attention: Attention = "live",
    *,
    position: int = -1,
    ranking: Ranking = "auto",
) -> Graph:
    """Trace what a prediction depends on: the graph of first-order effects among the units that matter most.

    An edge is `taken * d(target) / d(source)`, where `taken` is the source's activation less what it is put to when it
    is taken away, with all other chosen units held and everything else responding to first order: norms, attention
    patterns, and the rest of every MLP. Products of edges along paths, divided by what is taken at each node between,
    add up to the model's own derivative; `graph.agreement` says how exactly.

    Args:
        model: from `load` or `load_model`; features need the first.
        target: None for the likeliest next token less its rival (the other prompt's likeliest, else the second); a
            token, two of them, a `Difference`, a `Direction`, or a unit by its id.
        instead: a prompt to contrast with, best of as many tokens: what both share cancels, and the graph answers why
            this answer rather than that one.
        units: the model's neurons, or the dictionary's features.
        baseline: what units, tokens and the rests of MLPs are put to when taken away: `zero`, their `mean` over text,
            `resampled` from another text of the same length, or `auto`: the mean for neurons of a model with a
            tokenizer, else zero. Ignored with `instead`.
        most: how many units.
        attention: `held` keeps the patterns as they are.
        ranking: which units count as strongest: by the `gradient` on the prompt, by gradients averaged over `inputs` on
            the way to what takes their place, over `gates` (neurons on that way), or `auto`: the gradient, with
            `instead` gates for neurons and inputs for features. Effects are the same in all.
        position: where in the prompt the prediction is made; later tokens are cut off.

    Returns:
        A `Graph` whose edges say what a source's presence does to a target; `graph.effect` and `graph.dense()` say
        what taking it away does, which is the opposite sign. Errors are the rests of MLPs, by layer and position; the
        first position has no units.

    Raises:
        PromptError, TargetError, OptionError, TranscoderError: the question cannot be asked like this.
        InexactAttribution: the effects are not those of the real model.

    Source: edges as in Marks et al. 2024, "Sparse Feature Circuits", with everything that is no node responding.

    >>> import unweave                                                              # doctest: +SKIP
    >>> graph = unweave.response_graph(unweave.load("smollm2"), "The capital of France is",
    ...                                instead="The capital of Germany is")         # doctest: +SKIP
    """
    asked = ask(model, prompt, target, instead, units, baseline, attention, position)
    start = target_start(asked)
    chosen, support, there = _choose(asked, start, most, ranking)
    setting = Setting.of(asked, chosen, start, support)
    slopes, sources = _rows(setting)
    totals = _totals(chosen, slopes)
    by_path = torch.cat([totals * chosen.taken, sources[-1] + totals.to(sources) @ sources[:-1]])
    agreement = agreement_of(setting, by_path)
    graph = assembled(setting, there, slopes, sources, by_path)
    direct = slopes[-1] * chosen.taken
    share = _mediated(chosen, direct, by_path[: len(chosen)], len(asked.tangent.layers))
    graph = graph.with_provenance(
        agreement=agreement, mediated=share[0], mediated_by_layer=share[1], ranking=ranking_of(asked, ranking)
    )
    return replace(graph, router=Router(setting))


def _choose(asked: ResponseQuestion, start: Starts, most: int, ranking: Ranking) -> tuple[Units, Tensor, int]:
    """The strongest units by a ranking, their strengths, and how many there are."""
    tangent, basis, last = asked.tangent, asked.basis, int(start.position[0])
    candidates = basis.all_units(asked.firing, asked.reference, asked.silent, last)
    effects = strengths(asked, start, candidates, ranking)
    there = sum(
        (last + 1 - asked.silent) * layer.mlp.width if asked.transcoders is None else len(units)
        for layer, units in zip(tangent.layers, candidates, strict=True)
    )
    chosen, support = strongest(candidates, effects, most, there)
    if not len(chosen):
        raise OptionError("no unit has an effect on this target; choose another target, prompt or baseline")
    return chosen, support, there


def _rows(setting: Setting) -> tuple[Float[Tensor, "target unit"], Float[Tensor, "target source"]]:
    """The rows of all units and, last, of the target: derivatives by units, and weights of rests and tokens."""
    chosen, start, rests, tokens = setting.chosen, setting.start, setting.rests, setting.tokens
    tangent, n, count = setting.asked.tangent, len(tokens), len(chosen)
    slopes = tokens.new_zeros(count + 1, count)
    sources = tokens.new_zeros(count + 1, len(rests) * n + n)
    reads = tokens.new_zeros(count + 1, tokens.shape[1])
    for layer in chosen.layer.unique().tolist():
        which = chosen.at(layer)
        reads[which] = setting.asked.basis.reads(layer, chosen.select(which))
    reads[-1] = start.vector[0]
    layers, positions = torch.cat([chosen.layer, start.layer]), torch.cat([chosen.position, start.position])
    for names in batches(layers, positions, NUMBERS_AT_ONCE // (n * tokens.shape[1])):
        end = int(positions[names].max()) + 1
        swept = tangent.sweep(Starts(layers[names], positions[names], reads[names]), setting.cut, rests)
        slopes[names] = swept.units
        rest = swept.rests.new_zeros(len(names), len(rests), n)
        rest[:, :, :end] = swept.rests
        sources[names, : len(rests) * n] = rest.flatten(1)
        sources[names, len(rests) * n : len(rests) * n + end] = torch.einsum("bpd,pd->bp", swept.tokens, tokens[:end])
    return slopes, sources


def batches(
    layers: Int[Tensor, " target"], positions: Int[Tensor, " target"], most: int
) -> Iterator[Int[Tensor, " batch"]]:
    """Targets that are swept together, from the highest layer down: of one position, or of neighbouring ones where the
    few of the earlier are not worth a sweep of their own."""
    size = max(1, min(ROWS_AT_ONCE, most))
    order = torch.argsort(positions * (int(layers.max()) + 1) + layers, descending=True, stable=True)
    groups: list[Tensor] = []
    for position in positions.unique().flip(0).tolist():
        names = order[positions[order] == position]
        if groups and len(names) * (position + 1) < WORTH and len(groups[-1]) + len(names) <= size:
            groups[-1] = torch.cat([groups[-1], names])
        else:
            groups.extend(names.split(size))
    for names in groups:
        yield names[torch.argsort(layers[names], descending=True, stable=True)]


def _totals(chosen: Units, slopes: Float[Tensor, "target unit"]) -> Float[Tensor, " unit"]:
    """The target's derivative by every unit, all paths added up: one sweep back over the graph, in float64."""
    totals, slopes = slopes[-1].double(), slopes.double()
    for layer in chosen.layer.unique().flip(0).tolist():
        which = chosen.at(layer)
        totals = totals + totals[which] @ slopes[which]
    return totals


def _mediated(
    chosen: Units, direct: Float[Tensor, " unit"], effect: Float[Tensor, " unit"], depth: int
) -> tuple[float, tuple[float, ...]]:
    """The share of the units' effects that is not the direct edge, in all and by layer (0 where there is no unit)."""
    through, size = (effect - direct).abs().double(), effect.abs().double()
    by_layer = tuple(
        float(through[which].sum() / size[which].sum().clamp_min(1e-30)) if len(which := chosen.at(layer)) else 0.0
        for layer in range(depth)
    )
    return float(through.sum() / size.sum().clamp_min(1e-30)), by_layer
