"""The same questions asked of a dictionary of random features that is on as often, and of the model's own neurons."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Int
from torch import Tensor

from ..attribution.attribution import answer
from ..attribution.question import Question
from ..attribution.targets import Difference, TargetSpec
from ..base.progress import Progress
from ..corpus.blocks import named_sources, read_texts
from ..corpus.text import usual_context
from ..evaluation.baselines import BaselineFit, affine_maps, fit_baselines, random_dictionary
from ..graphs.graph import Graph
from ..graphs.nodes import NodeKind
from ..transcoders.neurons import most_neurons, neurons
from ..transcoders.replacement import ReplacementModel

CONTEXT = 64
TOKENS = 4096
"""Tokens of text to fit the random dictionary's skip matrices, scales and thresholds to."""

NEURONS = 1000
"""The most influential neurons, from which those that are tested are drawn."""


@dataclass(frozen=True, eq=False)
class Control:
    """What random dictionaries for a model are made from; the text is read once, however many graphs are tested."""

    model: ReplacementModel
    blocks: Int[Tensor, "sequence pos"]
    progress: Progress

    @staticmethod
    def on_text(
        model: ReplacementModel, sources: Sequence[str] = (), progress: Progress = lambda share: None
    ) -> "Control":
        """From text sources as `unweave eval` takes them; none: the bundled text.

        Raises:
            TextError: the text cannot be read or is too short.
        """
        named = named_sources(list(sources), model.language_model.name)
        context = usual_context(model.language_model, CONTEXT)
        _, blocks = read_texts(model.language_model, named, tokens=len(named) * context, context=context)
        return Control(model, blocks[: TOKENS // context], progress)

    @cached_property
    def fit(self) -> BaselineFit:
        """The moments of every MLP's inputs and outputs."""
        return fit_baselines(self.model.language_model, self.blocks, self.model.transcoders.write, self.progress)

    def random_graph(self, graph: Graph, seed: int) -> tuple[ReplacementModel, Graph]:
        """The same prompt traced with random features, as many of them on in each layer."""
        nodes, language_model = graph.nodes, self.model.language_model
        seen = max(1, int(nodes.position.max()))
        on = [
            int(((nodes.kind == NodeKind.FEATURE) & (nodes.layer == layer)).sum())
            for layer in range(language_model.n_layers)
        ]
        l0 = tuple(max(count, 1) / seen for count in on)
        affine = affine_maps(self.fit, language_model.engine_dtype)
        model = ReplacementModel(language_model, random_dictionary(self.fit, self.model.transcoders, l0, affine, seed))
        return model, retrace(model, graph)


def neuron_graph(
    model: ReplacementModel, graph: Graph, progress: Progress | None = None
) -> tuple[ReplacementModel, Graph]:
    """The same prompt traced with the model's own neurons in place of the dictionary: the most influential, no more
    than the graph has features."""
    own = ReplacementModel(model.language_model, neurons(model.language_model))
    features = graph.nodes.features.stop - graph.nodes.features.start
    most = most_neurons(own.transcoders, len(graph.provenance.input_ids), min(NEURONS, max(1, features)))
    return own, retrace(own, graph, progress, most)


def retrace(
    model: ReplacementModel,
    graph: Graph,
    progress: Progress | None = None,
    max_features: int | None = None,
) -> Graph:
    """A graph's prompt and targets traced again, whole (or with `max_features`): what pruning took out is there."""
    facts, nodes = graph.provenance, graph.nodes
    targets = [_spec(tokens) for tokens in facts.target_tokens if tokens] or [
        int(index) for index in nodes.index[nodes.logits].tolist()
    ]
    question = Question(
        facts.input_ids, targets, position=int(nodes.position[nodes.logits.start]),
        max_features=max_features or facts.max_features,
        position_zero=facts.position_zero, precision=facts.precision,
    )  # fmt: skip
    return answer(model, question, progress=progress)


def _spec(tokens: tuple[int, ...]) -> TargetSpec:
    return tokens[0] if len(tokens) == 1 else Difference(*tokens)
