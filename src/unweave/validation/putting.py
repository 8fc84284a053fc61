"""ChangedNeurons put to given values in the real model, everything else live: what response graphs are judged by."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import GraphError, OptionError
from ..graphs.graph import Graph
from ..interventions.attribution_patching import target_value
from ..models.language_model import LanguageModel
from ..response.references import ReferenceActivations
from ..response.routes import setting_of
from ..transcoders.replacement import ReplacementModel

VARIANTS_AT_ONCE = 32
"""Changed prompts in one forward pass."""


@dataclass(frozen=True)
class ChangedNeurons:
    """The neurons of one prompt, what they are put to, and what is measured."""

    model: LanguageModel
    ids: Int[Tensor, " pos"]
    layer: Int[Tensor, " unit"]
    position: Int[Tensor, " unit"]
    index: Int[Tensor, " unit"]
    effect: Float[Tensor, " unit"]
    """As the graph predicts it."""
    baseline: Float[Tensor, "layer pos neuron"]
    """What every neuron is put to; positions that keep their values hold their own."""
    tokens: tuple[int, ...]

    def measured(self, logits: Float[Tensor, "variant vocab"]) -> Float[Tensor, " variant"]:
        """The target of each variant, as the graph counts it."""
        return target_value(logits, self.tokens)

    def run(
        self, put: list[Bool[Tensor, "layer pos neuron"]]
    ) -> tuple[Float[Tensor, " variant"], Float[Tensor, "variant unit"]]:
        """The target, and the graph's own neurons, of every variant; `put` says which neurons go to their baseline."""
        targets, seen = [], []
        for begin in range(0, len(put), VARIANTS_AT_ONCE):
            some = put[begin : begin + VARIANTS_AT_ONCE]
            made: dict[int, Tensor] = {}

            def change(layer: int, h: Tensor, some: list[Tensor] = some, made: dict[int, Tensor] = made) -> Tensor:
                masks = torch.stack([mask[layer] for mask in some])
                h = torch.where(masks, self.baseline[layer].to(h), h)
                which = self.layer == layer
                made[layer] = h[:, self.position[which], self.index[which]]
                return h

            with neurons_changed(self.model, change), torch.no_grad():
                logits = self.model.module(
                    input_ids=self.ids.expand(len(some), -1).to(self.model.device), use_cache=False
                ).logits
            targets.append(self.measured(logits[:, -1]))
            found = torch.zeros(len(some), len(self.layer), dtype=logits.dtype)
            for layer, values in made.items():
                found[:, self.layer == layer] = values
            seen.append(found)
        return torch.cat(targets), torch.cat(seen)


@contextmanager
def neurons_changed(model: LanguageModel, change: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Let what enters each MLP's last linear map be `change(layer, activations [sequence, pos, neuron])`."""
    with ExitStack() as stack:
        for layer, block in enumerate(model.blocks):
            down = block.get_submodule(model.architecture.mlp).get_submodule(model.architecture.down)
            hook = down.register_forward_pre_hook(lambda module, args, layer=layer: (change(layer, args[0]), *args[1:]))
            stack.callback(hook.remove)
        yield


def neurons_of(model: ReplacementModel | LanguageModel, graph: Graph) -> ChangedNeurons:
    """The neurons of a response graph, ready to be put to what taking them away means there.

    Raises:
        GraphError: not a response graph of this model, of features, or of a target that is no logit.
        OptionError: a mixture of experts.
    """
    setting = setting_of(model, graph)
    asked, facts = setting.asked, graph.provenance
    if facts.units != "neurons":
        raise GraphError("this needs a response graph of neurons; compute one with units='neurons'")
    if not facts.target_tokens[0]:
        raise GraphError("this needs a graph whose target is a token or a difference of two")
    if asked.model.architecture.up is None:
        raise OptionError(f"{facts.model}: neurons of experts cannot be put to values; use a model without experts")
    own = torch.stack([layer.mlp.activations() for layer in asked.tangent.layers])
    baseline = _baseline(asked.reference, own)
    baseline[:, : asked.silent] = own[:, : asked.silent]
    rows = graph.nodes.features
    assert graph.effect is not None
    return ChangedNeurons(
        asked.model, asked.ids, graph.nodes.layer[rows], graph.nodes.position[rows], graph.nodes.index[rows],
        graph.effect[rows], baseline, facts.target_tokens[0],
    )  # fmt: skip


def _baseline(
    reference: ReferenceActivations, own: Float[Tensor, "layer pos neuron"]
) -> Float[Tensor, "layer pos neuron"]:
    if reference.neurons is None:
        return torch.zeros_like(own)
    made = torch.stack(list(reference.neurons)).clone()
    made[:, reference.kept] = own[:, reference.kept]
    return made
