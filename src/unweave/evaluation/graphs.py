"""Scores of whole attribution graphs, honest and as the peer counts."""

from collections.abc import Sequence

from ..attribution.attribution import answer
from ..attribution.question import Question
from ..base.progress import Progress
from ..transcoders.neurons import most_neurons, neurons
from ..transcoders.replacement import ReplacementModel
from .results import NeuronScores, PromptScores

NODES, SAMPLED = 300, 5
"""Features of each graph that is set beside one of neurons, and how many prompts are taken."""


def score_prompts(
    model: ReplacementModel, prompts: Sequence[str | Sequence[int]], progress: Progress
) -> tuple[PromptScores, ...]:
    """Trace each prompt (text or token ids) with all its features.

    Raises:
        PromptError: a prompt cannot be run.
    """
    found = []
    for number, prompt in enumerate(prompts):
        graph = answer(
            model, Question(prompt), progress=lambda share, done=number: progress((done + share) / len(prompts))
        )
        honest, dropped = graph.scores(), graph.scores("drop")
        label = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
        found.append(
            PromptScores(
                label, len(graph.tokens), graph.provenance.active_features or 0, *map(float, (*honest, *dropped))
            )
        )
    return tuple(found)


def score_beside_neurons(
    model: ReplacementModel, prompts: Sequence[str | Sequence[int]], progress: Progress
) -> tuple[NeuronScores, ...]:
    """Trace some of the prompts with the dictionary's most influential features, and with as many of the model's own
    neurons.

    Raises:
        PromptError: a prompt cannot be run.
    """
    if not prompts or model.language_model.architecture.up is None:
        return ()
    own, found = ReplacementModel(model.language_model, neurons(model.language_model)), []
    for number, prompt in enumerate(chosen := prompts[:: -(-len(prompts) // SAMPLED)]):
        tokens = len(model.language_model.tokenize(prompt))
        graph = answer(model, Question(prompt, max_features=most_neurons(own.transcoders, tokens, NODES)))
        nodes = graph.nodes.features.stop
        progress((number + 0.3) / len(chosen))
        if nodes:
            other = answer(own, Question(prompt, max_features=nodes))
            label = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
            found.append(NeuronScores(label, nodes, *map(float, (*graph.scores(), *other.scores()))))
        progress((number + 1) / len(chosen))
    return tuple(found)
