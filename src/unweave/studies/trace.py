"""Step `trace`: the attribution graphs of some variants, where their answers come from, and whether they agree with
interventions."""

import torch
from pydantic import Field

from ..attribution.attribution import answer
from ..attribution.promoted import promoted_tokens, with_promoted
from ..attribution.question import Question
from ..attribution.targets import Difference
from ..graphs.graph import Graph
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


def run(bench: Bench, options: Trace) -> Result:
    """Trace, and say where the answer comes from."""
    variants = _chosen(bench, options)
    rows, tables, graphs, scores, shares, percentiles = [], [], [], [], [], []
    for variant in bench.each(variants):
        target = (
            bench.token(variant.answer)
            if variant.foil is None
            else Difference(bench.token(variant.answer), bench.token(variant.foil))
        )
        graph = answer(bench.model, Question(bench.text(variant), target, max_features=options.max_features))
        scores.append(graph.scores())
        share = None if options.field is None else _share(graph, bench.positions(variant, options.field))
        found = (
            []
            if options.of is None
            else [one.features for one in bench.results[options.of].found if one.prompt == bench.text(variant)]
        )
        place = _percentile(bench, variant, graph, [feature for part in found for feature in part])
        shares += [] if share is None else [share]
        percentiles += [] if place is None else [place]
        rows.append((variant.prompt, variant.answer, *scores[-1], share, place))
        if not tables:
            tables.append(_strongest(bench, graph))
        graphs.append(with_promoted(prune(graph, *KEEP), bench.model))
    figures = {
        "replacement": mean([one.replacement for one in scores]),
        "completeness": mean([one.completeness for one in scores]), "share": mean(shares),
        "percentile": mean(percentiles),
    }  # fmt: skip
    columns = (
        "prompt",
        "answer",
        "replacement",
        "completeness",
        f"share of {options.field}",
        f"mean percentile of what {options.of} found",
    )
    kept = [place for place in range(6) if place < 4 or (place == 4 and shares) or (place == 5 and percentiles)]
    tables.insert(
        0,
        ResultTable(
            "Traced prompts", tuple(columns[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in rows)
        ),
    )
    summary = (
        f"In {len(variants)} traced prompt{'s' * (len(variants) > 1)} features account for "
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
    return Result(figures, summary + ".", tuple(tables), graphs=tuple(graphs))


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
