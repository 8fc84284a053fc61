"""The trust report of a graph: interventions on the real model, set against what the graph says."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..base.kinds import typed
from ..base.progress import Progress
from ..errors import GraphError
from ..graphs.graph import Graph
from ..graphs.nodes import NodeKind
from ..interventions.attribution_patching import likeliest_target
from ..interventions.naming import check_graph
from ..transcoders.replacement import ReplacementModel
from ..version import __version__
from .ablations import RUNGS, measure, predictions
from .control import Control, neuron_graph, retrace
from .figures import MODES, ablation_figures, link_figures, pair_figures, travel_figures
from .measured import Measurements
from .pairs import choose_pairs, measure_pairs
from .perturbations import measure_perturbations
from .results import Figure, Settings, TrustReport
from .sample import JudgedGraph, sample_features
from .verdict import judge

RUNG_SHARE = 3
"""One in so many ablations is also done in the replacement model, which costs several times as much."""
NEURON_SHARE = 3
"""One in so many ablations and pairs is also done with neurons."""
LEAST = 10
"""But so many at least."""


@typed
def validate(
    model: ReplacementModel,
    graph: Graph,
    settings: Settings | None = None,
    *,
    control: Control | None = None,
    keep: str | Path | None = None,
    budget: float | None = None,
    name: str = "",
    progress: Callable[..., object] | None = None,
) -> TrustReport:
    """Test a graph by interventions on the real model, and say how far it can be trusted.

    A pruned graph is traced again, whole, so that features it left out are tested too. Tested is its likeliest token
    (or difference).

    Args:
        settings: how much is tested.
        control: what random dictionaries are made from; None: bundled text, if `settings.control`.
        keep: file in which measurements are kept while it runs, so that a stopped validation goes on where it was.
        budget: seconds after which no further measurement is begun; what was measured is reported.
        name: the graph's file, for the report.

    Raises:
        GraphError: a graph of another model or dictionary, of another tool, or without a token as target.
        OptionError, TextError: settings or text that cannot be used.

    Source: Ameisen et al. 2025, "Circuit Tracing", sections on validating attribution graphs and on mechanistic
        faithfulness.

    >>> import unweave                                                        # doctest: +SKIP
    >>> model = unweave.load("smollm2")                                       # doctest: +SKIP
    >>> unweave.validate(model, unweave.attribute(model, "The capital of France is")).verdict    # doctest: +SKIP
    """
    begin, settings, say = time.monotonic(), settings or Settings(), progress or (lambda share, title="": None)
    _check(graph, name or "the graph", model)
    target = likeliest_target(graph)
    whole = graph
    if graph.provenance.pruning is not None:
        say(0.0, "tracing the whole graph")
        whole = retrace(model, graph, lambda share: say(share, "tracing the whole graph"))
    measured = Measurements(
        None if keep is None else Path(keep), _question(graph, settings), None if budget is None else begin + budget
    )
    measured.resume()
    figures, complete = _explained(whole), True
    wanted = {
        "control: ": settings.control,
        "neurons: ": settings.neurons
        and model.language_model.architecture.up is not None
        and not model.transcoders.of_neurons,
    }
    runs: list[tuple[str, ReplacementModel, Graph]] = [("", model, whole)]
    for group, tested, traced in runs:
        how = _for_neurons(settings) if group == "neurons: " else settings
        found, whole_sample = _test(JudgedGraph.of(tested, traced), how, measured, group, say)
        figures += found
        complete &= whole_sample
        if not group and wanted["control: "] and not measured.out_of_time():
            say(0.0, "tracing with a random dictionary")
            random = control or Control.on_text(
                model, progress=lambda share: say(share, "reading text for the control")
            )
            runs.append(("control: ", *random.random_graph(whole, settings.seed)))
            figures += _explained(runs[-1][2], "control: ")[:3]
        if not group and wanted["neurons: "] and not measured.out_of_time():
            say(0.0, "tracing with neurons")
            runs.append(("neurons: ", *neuron_graph(model, whole, lambda share: say(share, "tracing with neurons"))))
            figures += _explained(runs[-1][2], "neurons: ")[:3]
    facts = graph.provenance
    return TrustReport(
        prompt=facts.prompt,
        tokens=facts.tokens,
        target=facts.logit_labels[target - graph.nodes.logits.start],
        model=facts.model,
        transcoders=facts.transcoders,
        transcoders_sha256=facts.transcoders_sha256,
        settings=settings,
        figures=tuple(figures),
        verdict=judge(figures),
        complete=complete and len(runs) == 1 + sum(wanted.values()),
        seconds=round(time.monotonic() - begin, 1),
        version=__version__,
        graph=name,
    )


def _check(graph: Graph, named: str, model: ReplacementModel) -> None:
    if graph.is_response:
        raise GraphError(f"{named} is a response graph; unweave.validate_response judges it")
    check_graph(graph, named, model)
    if graph.provenance.origin != "unweave" or not graph.provenance.input_ids:
        raise GraphError(
            f"{named} was not traced by unweave, so it does not say how to trace it again; trace its prompt with "
            f"unweave trace"
        )


def _for_neurons(settings: Settings) -> Settings:
    """Fewer measurements, and no disturbances: they travel in the neurons' replacement model as in the real one, which
    it is."""
    return replace(
        settings,
        ablations=max(LEAST, settings.ablations // NEURON_SHARE),
        pairs=settings.pairs // NEURON_SHARE,
        disturbances=0,
    )


def _question(graph: Graph, settings: Settings) -> dict[str, Any]:
    """What measurements depend on: the prompt, the targets, the dictionary, the settings."""
    facts = graph.provenance
    return {
        "version": __version__, "model": facts.model, "transcoders": facts.transcoders_sha256, "dtype": facts.dtype,
        "ids": list(facts.input_ids),
        "targets": [list(tokens) for tokens in facts.target_tokens], "max_features": facts.max_features,
        "position_zero": facts.position_zero,
        "settings": asdict(settings),
    }  # fmt: skip


def _explained(graph: Graph, group: str = "") -> list[Figure]:
    scores, dropped, facts = graph.scores(), graph.scores("drop"), graph.provenance
    exact = math.nan if facts.logits_error is None else facts.logits_error
    return [
        Figure(
            f"{group}explained",
            "replacement score",
            scores.replacement,
            note="share of paths that end in tokens, not in errors",
        ),
        Figure(f"{group}explained", "completeness score", scores.completeness),
        Figure(
            f"{group}explained",
            "replacement score, as the peer counts",
            dropped.replacement,
            note="position 0 left out",
        ),
        Figure(
            f"{group}explained", "largest error of a logit", exact, note="local replacement model against the model"
        ),
        Figure(
            f"{group}explained",
            "largest residual of a row",
            math.nan if facts.residual is None else facts.residual,
            note="relative",
        ),
    ]


def _test(
    question: JudgedGraph, settings: Settings, measured: Measurements, group: str, say: Progress
) -> tuple[list[Figure], bool]:
    """All measurements on one graph; of a random dictionary's, not where its misses come from."""
    graph, name, seed = question.graph, group + "ablations", settings.seed
    features = graph.nodes.kind == NodeKind.FEATURE
    sample = sample_features(graph.influence(), features, settings.ablations, seed)
    predicted = predictions(question, sample, seed)
    rows = measure(question, sample, measured, name, tuple(MODES), settings.ablations, say)
    figures = ablation_figures(predicted, rows, sample.strong, group)
    done = all(len(part) == len(sample.rows) for part in rows.values())
    if not group:
        rungs = measure(question, sample, measured, name, RUNGS[:2], max(LEAST, settings.ablations // RUNG_SHARE), say)
        figures += link_figures(predicted, rows, rungs)
    if settings.pairs:
        near = features & (graph.nodes.layer < graph.provenance.n_layers - 1)
        chosen = sample_features(graph.influence(), near, max(2, settings.pairs), seed)
        pairs = choose_pairs(question, chosen, settings.reach, seed)
        held, live = measure_pairs(question, pairs, measured, group.strip() or "graph", settings.reach, say)
        figures += pair_figures(pairs, held, live, group)
        done &= len(live) == len(pairs.sources)
    if settings.disturbances:
        travelled = measure_perturbations(
            question, settings.disturbances, seed, measured, group.strip() or "graph", say
        )
        figures += travel_figures(travelled, group)
    return figures, done and not measured.out_of_time()
