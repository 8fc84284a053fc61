"""A trace with all that is said about it: pruned, its features named, their effects measured."""

from pathlib import Path
from typing import Any

from ..attribution.attribution import answer
from ..attribution.promoted import with_promoted
from ..attribution.question import Question
from ..features.graphs import with_labels
from ..features.pages import Pages
from ..graphs.graph import Graph
from ..graphs.pruning import prune
from ..transcoders.replacement import ReplacementModel
from .summary import with_effects


def traced(
    model: ReplacementModel,
    question: Question,
    node_threshold: float,
    edge_threshold: float,
    *,
    pages: Pages | None,
    partial: Path | None,
    progress: Any,
) -> tuple[Graph, Graph]:
    """The whole graph, and what is kept of it, fit for `summarize`.

    Args:
        pages: where labels come from.
        partial: where rows are kept, so that a stopped trace goes on.
        progress: called with a share or None, and perhaps a title.

    Raises:
        UnweaveError: the question cannot be answered.
    """
    progress(0.0, "tracing")
    graph = answer(model, question, partial=partial, progress=progress)
    progress(None, "pruning")
    pruned = with_promoted(prune(graph, node_threshold, edge_threshold), model)
    if pages is not None:
        pruned = with_labels(pruned, pages)
    progress(None, "measuring effects")
    return graph, with_effects(pruned, model)
