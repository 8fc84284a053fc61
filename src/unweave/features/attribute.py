"""`unweave.attribute`: the graph of a prompt, with labels of its features where pages of the dictionary are at hand."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from ..attribution.attribution import answer
from ..attribution.question import Question
from ..attribution.targets import TargetSpec
from ..attribution.work import Progress
from ..base.choices import PositionZero, Precision
from ..graphs.graph import Graph
from ..transcoders.replacement import ReplacementModel


def attribute(
    model: ReplacementModel,
    prompt: str | Sequence[int] | Tensor,
    targets: TargetSpec | Sequence[TargetSpec] | None = Question.targets,
    *,
    position: int = Question.position,
    max_logits: int = Question.max_logits,
    logit_mass: float = Question.logit_mass,
    max_features: int | None = Question.max_features,
    position_zero: PositionZero = Question.position_zero,
    precision: Precision = Question.precision,
    device: str | None = Question.device,
    max_memory: int | str | None = Question.max_memory,
    partial: str | Path | None = None,
    progress: Progress | None = None,
) -> Graph:
    """Trace which features, errors and tokens caused a prediction: the prompt's attribution graph.

    Args:
        model: a language model and a dictionary for it, as `load` returns.
        prompt: text, or token ids.
        targets: what to explain: tokens as text or ids, a `Difference`, a `Direction`, or several of them; None: the
            most likely next tokens (`max_logits`, `logit_mass`).
        position: where in the prompt the prediction is made; negative counts from the end. Later tokens are cut off.
        max_logits: without targets, at most so many tokens, the likeliest.
        logit_mass: without targets, no more tokens than together have this probability.
        max_features: at most so many features become nodes, those of largest influence first; the others are folded
            into the error node of their layer and position.
        position_zero: "error" keeps the first position's MLP outputs as error nodes, "drop" makes them constants.
        precision: "exact", or "fast": operands of the large products rounded to bfloat16, sums in float32.
        device: where rows are computed; None: where the model is.
        max_memory: of this process at its peak, in bytes or as `2GB`: smaller passes, and rows in files; edges are
            the same.
        partial: a file for the rows of a large graph while they are computed, from which the same call goes on after it
            was stopped or killed; gone when the graph is done.
        progress: called with the share of the work that is done.

    Returns:
        The unpruned graph: logits in the model's units, edges as direct linear effects on a target's pre-activation.
        `graph.residual()` says how exact each row is. Features have labels (`graph.label(node)`) where the dictionary
        has feature pages that ship.

    Raises:
        PromptError, TargetError, OptionError: the question cannot be asked like this.
        InexactAttribution: the frozen model does not reproduce the model, or edges are not finite.
        FileError: `partial` cannot be written, or is in use.

    Source: Ameisen et al. 2025, "Circuit Tracing", sections on the local replacement model and attribution graphs.

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> graph = unweave.attribute(model, "the capital of Texas is", max_features=50)
    >>> graph.provenance.logit_labels[0], float(graph.residual().max()) < 1e-4
    ('Austin', True)
    """
    question = Question(
        prompt, targets, position, max_logits, logit_mass, max_features, position_zero, precision, device, max_memory
    )
    graph = answer(model, question, partial=partial, progress=progress)
    if find_spec("duckdb") is None:  # what reads pages; the engine does without
        return graph
    from .graphs import with_labels
    from .pages import pages_of

    pages = pages_of(model.transcoders)
    return graph if pages is None else with_labels(graph, pages)
