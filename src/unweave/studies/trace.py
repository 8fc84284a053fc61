"""Step `trace`: the attribution graphs of some variants, where their answers come from, and whether they agree with
interventions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field

from ..attribution.attribution import answer
from ..attribution.promoted import promoted_tokens, with_promoted
from ..attribution.question import Question
from ..attribution.targets import Difference
from ..graphs.graph import Graph
from ..graphs.influence import Scores
from ..graphs.nodes import NodeKind
from ..graphs.pruning import prune
from ..interventions.attribution_patching import first_order_effects
from ..interventions.smallest import active_features
from .bench import Bench, Variant
from .protocol import FieldName, Options, Protocol, StepName
from .results import Result, ResultTable, mean

KEEP = (0.6, 0.9)
"""Thresholds of nodes and edges for the graphs that are kept."""
LISTED = 10


class Trace(Options):
    """What a study file can say."""

    prompts: int = Field(1, ge=1)
    """So many of the variants that are answered rightly."""
    field: FieldName | None = None
    """Whose tokens' share of the answer is given."""
    of: StepName | None = None
    """An earlier step: its prompts are traced, and the features it found are looked up in the graphs."""
    max_features: int | None = Field(None, ge=1)


class TracedVariant(NamedTuple):
    """One variant with its graph and what is read off it."""

    variant: Variant
    graph: Graph
    """Pruned."""
    scores: Scores
    share: float | None
    """Of the field's tokens; None: no field asked for."""
    percentile: float | None
    """Of what the earlier step found; None: nothing of it is active here."""


def run(bench: Bench, options: Trace) -> Result:
    """Trace, and say where the answer comes from."""
    found: list[TracedVariant] = []
    strongest: list[ResultTable] = []
    for variant in bench.each(_chosen(bench, options)):
        graph = _graph(bench, variant, options)
        found.append(_read(bench, variant, graph, options))
        if not strongest:
            strongest.append(_strongest(bench, graph))
    return tell(found, options, strongest)


def _graph(bench: Bench, variant: Variant, options: Trace) -> Graph:
    target = bench.token(variant.answer)
    asked = target if variant.foil is None else Difference(target, bench.token(variant.foil))
    return answer(bench.model, Question(bench.text(variant), asked, max_features=options.max_features))


def _read(bench: Bench, variant: Variant, graph: Graph, options: Trace) -> TracedVariant:
    share = None if options.field is None else _share(graph, bench.positions(variant, options.field))
    earlier = () if options.of is None else bench.results[options.of].found
    text = bench.text(variant)
    place = _percentile(bench, variant, graph, [name for one in earlier if one.prompt == text for name in one.features])
    return TracedVariant(variant, with_promoted(prune(graph, *KEEP), bench.model), graph.scores(), share, place)


def tell(found: Sequence[TracedVariant], options: Trace, strongest: Sequence[ResultTable]) -> Result:
    """Figures, tables and a sentence."""
    shares = [one.share for one in found if one.share is not None]
    percentiles = [one.percentile for one in found if one.percentile is not None]
    figures = {
        "replacement": mean([one.scores.replacement for one in found]),
        "completeness": mean([one.scores.completeness for one in found]), "share": mean(shares),
        "percentile": mean(percentiles),
    }  # fmt: skip
    summary = (
        f"In {len(found)} traced prompt{'s' * (len(found) > 1)} features account for "
        f"{figures['replacement']:.0%} of the answer (replacement score)"
    )
    if shares:
        summary += (
            f"; the tokens of {options.field} have {figures['share']:.0%} of all tokens' influence but the first's"
        )
    if percentiles:
        summary += (
            f"; the features that {options.of} found rank above {figures['percentile']:.1%} of active features "
            f"by influence (chance: 50%)"
        )
    columns = {
        "prompt": [one.variant.prompt for one in found],
        "answer": [one.variant.answer for one in found],
        "replacement": [one.scores.replacement for one in found],
        "completeness": [one.scores.completeness for one in found],
    }
    columns |= {f"share of {options.field}": [one.share for one in found]} if shares else {}
    named = f"mean percentile of what {options.of} found"
    columns |= {named: [one.percentile for one in found]} if percentiles else {}
    table = ResultTable("Traced prompts", tuple(columns), tuple(zip(*columns.values(), strict=True)))
    return Result(figures, summary + ".", (table, *strongest), graphs=tuple(one.graph for one in found))


def _chosen(bench: Bench, options: Trace) -> list[Variant]:
    right = bench.right()
    if options.of is not None:
        prompts = {one.prompt for one in bench.results[options.of].found}
        right = [variant for variant in right if bench.text(variant) in prompts] or right
    return bench.some(right, options.prompts)


def _share(graph: Graph, positions: list[int]) -> float:
    """Of the influence of all embeddings but the first, that of some positions."""
    nodes, influence = graph.nodes, graph.influence()
    tokens = (nodes.kind == NodeKind.EMBEDDING) & (nodes.position > 0)
    here = tokens & torch.isin(nodes.position.long(), torch.tensor(positions))
    return float(influence[here].sum() / influence[tokens].sum().clamp_min(1e-30))


def _percentile(bench: Bench, variant: Variant, graph: Graph, features: list[str]) -> float | None:
    """Mean share of the prompt's active features that have less influence than those given that are active there;
    folded ones have least."""
    active = {change.features[0].id for change in active_features(bench.model, bench.record(variant))}
    known = [name for name in features if name in active]
    if not known:
        return None
    influence = graph.influence()
    everywhere = influence[graph.nodes.features].sort().values
    folded = len(active) - len(everywhere)
    below = [
        folded + int(torch.searchsorted(everywhere, influence[graph.nodes.rows[name]]))
        if name in graph.nodes.rows
        else 0
        for name in known
    ]
    return sum(below) / len(below) / len(active)


def _strongest(bench: Bench, graph: Graph) -> ResultTable:
    influence, effect = graph.influence(), first_order_effects(bench.model, graph)
    rows = influence[graph.nodes.features].topk(min(LISTED, graph.nodes.features.stop)).indices.tolist()
    nodes = [graph.nodes[row] for row in rows]
    promoted = promoted_tokens(bench.model, [(node.layer, node.index) for node in nodes])
    content = tuple(
        (
            node.id,
            graph.tokens[node.position],
            float(influence[node.row]),
            float(effect[node.row]),
            " ".join(word.strip() for word in words),
        )
        for node, words in zip(nodes, promoted, strict=True)
    )
    return ResultTable(
        "Strongest features of the first graph",
        ("feature", "on", "influence", "first-order effect", "promotes"),
        content,
    )


TRACE = Protocol(
    "attribution graphs of some variants: scores, the share of a field's tokens, the rank of what another step found",
    Trace,
    {
        "replacement": "mean replacement score",
        "completeness": "mean completeness score",
        "share": "mean share of a field's tokens in the influence of all tokens but the first",
        "percentile": "mean share of active features that have less influence than those another step found",
    },
    run,
)
