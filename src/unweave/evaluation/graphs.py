"""Scores of whole attribution graphs, honest and as the peer counts."""

from collections.abc import Callable, Sequence

from ..attribution import attribute
from ..replacement import ReplacementModel
from .results import PromptScores


def score_prompts(model: ReplacementModel, prompts: Sequence[str | Sequence[int]], progress: Callable[[float], object]) -> tuple[PromptScores, ...]:
    """Trace each prompt (text or token ids) with all its features.

    Raises:
        PromptError: a prompt cannot be run.
    """
    found = []
    for number, prompt in enumerate(prompts):
        graph = attribute(model, prompt, progress=lambda share, done=number: progress((done + share) / len(prompts)))
        honest, dropped = graph.scores(), graph.scores("drop")
        label = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
        found.append(PromptScores(label, len(graph.tokens), graph.provenance.active_features or 0, *map(float, (*honest, *dropped))))
    return tuple(found)
