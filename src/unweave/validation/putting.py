"""Units put to given values in the real model, everything else live: what response graphs are judged by."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..base.choices import Ranking, choice
from ..errors import GraphError, OptionError
from ..graphs.graph import Graph
from ..interventions.attribution_patching import target_value
from ..interventions.edits import Feature, Intervention, set_to
from ..interventions.interventions import intervene_each
from ..models.language_model import LanguageModel
from ..models.places import neurons_changed
from ..models.recording import Recording
from ..response.ranking import reference_neurons, support
from ..response.routes import setting_of
from ..response.setting import Setting
from ..response.units import Units
from ..transcoders.replacement import ReplacementModel

VARIANTS_AT_ONCE = 32
"""Changed prompts in one forward pass."""

Mask = Bool[Tensor, " place"]
"""Which of all units are put to their baseline."""


class Results(NamedTuple):
    """What variants gave, one row each."""

    target: Float[Tensor, " variant"]
    answer: Float[Tensor, " variant"]
    """The log-probability of the target's first token."""
    seen: Float[Tensor, "variant unit"]
    """Activations of the graph's own units."""
    top: Int[Tensor, " variant"]
    """The likeliest token."""


@dataclass(frozen=True)
class ChangedNeurons:
    """All neurons of one prompt, what they are put to, and what is measured; `own` says which are in the graph."""

    model: LanguageModel
    ids: Int[Tensor, " pos"]
    layer: Int[Tensor, " unit"]
    position: Int[Tensor, " unit"]
    index: Int[Tensor, " unit"]
    effect: Float[Tensor, " unit"]
    """As the graph predicts it."""
    support: Float[Tensor, " unit"]
    """How much each holds the target up, by the ranking that chose it."""
    baseline: Float[Tensor, "layer pos neuron"]
    """What every neuron is put to; positions that keep their values hold their own."""
    tokens: tuple[int, ...]
    own_values: Float[Tensor, "layer pos neuron"]

    @property
    def size(self) -> int:
        """How many neurons there are."""
        return self.baseline.numel()

    @property
    def own(self) -> Int[Tensor, " unit"]:
        """The graph's among them."""
        return self._place(self.index)

    @property
    def activation(self) -> Float[Tensor, " unit"]:
        """What the graph's are in the prompt."""
        return self.own_values.flatten()[self.own]

    @property
    def taken(self) -> Float[Tensor, " unit"]:
        """What is taken away with each of the graph's."""
        return self.activation - self.baseline.flatten()[self.own]

    def random(self, seed: int) -> Int[Tensor, " unit"]:
        """For each of the graph's, one drawn from its layer and position."""
        generator = torch.Generator().manual_seed(seed)
        return self._place(torch.randint(self.baseline.shape[-1], (len(self.index),), generator=generator))

    def _place(self, index: Tensor) -> Tensor:
        _, n, width = self.baseline.shape
        return (self.layer * n + self.position) * width + index

    def run(self, put: Sequence[Mask], kept: Sequence[Mask] = ()) -> Results:
        """What every variant gives; `put` says which neurons go to their baseline, `kept` which to their own values
        (none of a variant that is not in it)."""
        found: list[Results] = []
        shape = self.baseline.shape
        for begin in range(0, len(put), VARIANTS_AT_ONCE):
            some = torch.stack([mask.view(shape) for mask in put[begin : begin + VARIANTS_AT_ONCE]])
            held = torch.stack([mask.view(shape) for mask in kept[begin : begin + VARIANTS_AT_ONCE]]) if kept else None
            made: dict[int, Tensor] = {}

            def change(
                layer: int,
                h: Tensor,
                some: Tensor = some,
                held: Tensor | None = held,
                made: dict[int, Tensor] = made,
            ) -> Tensor:
                h = torch.where(some[:, layer].to(h.device), self.baseline[layer].to(h), h)
                if held is not None:
                    h = torch.where(held[:, layer].to(h.device), self.own_values[layer].to(h), h)
                which = self.layer == layer
                made[layer] = h[:, self.position[which], self.index[which]]
                return h

            with neurons_changed(self.model, change), torch.no_grad():
                logits = self.model.module(
                    input_ids=self.ids.expand(len(some), -1).to(self.model.device), use_cache=False
                ).logits
            seen = torch.zeros(len(some), len(self.layer), dtype=logits.dtype)
            for layer, values in made.items():
                seen[:, self.layer == layer] = values.cpu()
            found.append(_results(logits[:, -1].cpu(), self.tokens, seen))
        return Results(*(torch.cat(column) for column in zip(*found, strict=True)))

    def told(self, places: Int[Tensor, " unit"]) -> tuple[Tensor, Tensor, Tensor]:
        """Layers, indices, and what they are put to."""
        _, n, width = self.baseline.shape
        return places // (n * width), places % width, self.baseline.flatten()[places]


@dataclass(frozen=True)
class ChangedFeatures:
    """The features of one prompt that are on in it or in the prompt it is contrasted with; the rest as in
    `ChangedNeurons`."""

    model: ReplacementModel
    recording: Recording
    layer: Int[Tensor, " unit"]
    position: Int[Tensor, " unit"]
    index: Int[Tensor, " unit"]
    effect: Float[Tensor, " unit"]
    support: Float[Tensor, " unit"]
    everything: Units
    own: Int[Tensor, " unit"]
    tokens: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many features there are."""
        return len(self.everything)

    @property
    def ids(self) -> Int[Tensor, " pos"]:
        """The prompt."""
        return self.recording.input_ids

    @property
    def activation(self) -> Float[Tensor, " unit"]:
        """What the graph's are in the prompt."""
        return self.everything.activation[self.own]

    @property
    def taken(self) -> Float[Tensor, " unit"]:
        """What is taken away with each of the graph's."""
        return self.everything.taken[self.own]

    def random(self, seed: int) -> Int[Tensor, " unit"]:
        """For each of the graph's, one drawn from its layer."""
        generator, places = torch.Generator().manual_seed(seed), torch.zeros_like(self.own)
        for layer in self.layer.unique().tolist():
            which, there = torch.nonzero(self.layer == layer).flatten(), self.everything.at(layer)
            places[which] = there[torch.randint(len(there), (len(which),), generator=generator)]
        return places

    def run(self, put: Sequence[Mask], kept: Sequence[Mask] = ()) -> Results:
        """What every variant gives; `put` says which features go to their baseline, `kept` which to their own
        values."""
        held = kept or [torch.zeros(self.size, dtype=torch.bool)] * len(put)
        variants = [self._changes(mask, keep) for mask, keep in zip(put, held, strict=True)]
        watched = [Feature(*place) for place in zip(*self._columns(self.layer, self.position, self.index), strict=True)]
        logits, seen = [], []
        for outcome in intervene_each(self.model, self.recording, variants, "open", watch=watched):
            logits.append(outcome.logits[-1])
            seen.append(outcome.activations[1])
        return _results(torch.stack(logits), self.tokens, torch.stack(seen))

    def told(self, places: Int[Tensor, " unit"]) -> tuple[Tensor, Tensor, Tensor]:
        """Layers, indices, and what they are put to."""
        some = self.everything.select(places)
        return some.layer, some.index, some.activation - some.taken

    def _changes(self, put: Mask, kept: Mask) -> list[Intervention]:
        made = []
        for mask, whole in ((put & ~kept, False), (kept, True)):
            some = self.everything.select(torch.nonzero(mask).flatten())
            values = some.activation if whole else some.activation - some.taken
            columns = self._columns(some.layer, some.position, some.index)
            made += [set_to(Feature(*place), value) for *place, value in zip(*columns, values.tolist(), strict=True)]
        return made

    @staticmethod
    def _columns(*columns: Tensor) -> list[list[int]]:
        return [column.tolist() for column in columns]


Changed = ChangedNeurons | ChangedFeatures


def _results(logits: Float[Tensor, "variant vocab"], tokens: tuple[int, ...], seen: Tensor) -> Results:
    return Results(target_value(logits, tokens), logits.log_softmax(-1)[:, tokens[0]], seen, logits.argmax(-1))


def mask_of(changed: Changed, places: Tensor) -> Mask:
    """A mask of some of all units."""
    mask = torch.zeros(changed.size, dtype=torch.bool)
    mask[places] = True
    return mask


def put_to_zero(changed: Changed) -> Changed:
    """The same units, taken away by being put to zero."""
    if isinstance(changed, ChangedNeurons):
        baseline = changed.baseline.clone()
        baseline.view(-1)[changed.own] = 0
        return replace(changed, baseline=baseline)
    return replace(changed, everything=replace(changed.everything, taken=changed.everything.activation))


def changed_of(model: ReplacementModel | LanguageModel, graph: Graph) -> Changed:
    """The units of a response graph, ready to be put to what taking them away means there.

    Raises:
        GraphError: not a response graph of this model, or of a target that is no logit.
        OptionError: a mixture of experts.
    """
    setting = setting_of(model, graph)
    asked, facts = setting.asked, graph.provenance
    if not facts.target_tokens[0]:
        raise GraphError("this needs a graph whose target is a token or a difference of two")
    if facts.units == "features":
        if not isinstance(model, ReplacementModel):
            raise GraphError("the graph's units are features; load the model with its dictionary (unweave.load)")
        return _features(model, graph, setting)
    if asked.model.architecture.up is None:
        raise OptionError(f"{facts.model}: neurons of experts cannot be put to values; use a model without experts")
    own = torch.stack([layer.mlp.activations() for layer in asked.tangent.layers])
    rows = graph.nodes.features
    assert graph.effect is not None
    effect = graph.effect[rows]
    return ChangedNeurons(
        asked.model, asked.ids, graph.nodes.layer[rows], graph.nodes.position[rows], graph.nodes.index[rows],
        effect, _support(setting, graph, effect), reference_neurons(asked), facts.target_tokens[0], own,
    )  # fmt: skip


def _features(model: ReplacementModel, graph: Graph, setting: Setting) -> ChangedFeatures:
    asked, nodes, rows = setting.asked, graph.nodes, graph.nodes.features
    found = asked.basis.all_units(asked.firing, asked.reference, asked.silent, len(asked.ids) - 1)
    everything = Units.join(found)
    if asked.reference.name == "mean":  # means leave hardly a feature at zero; those that are off stay off
        everything = everything.select(torch.nonzero(everything.activation != 0).flatten())
    width = max(model.transcoders.widths)
    n = len(asked.ids)

    def key(layer: Tensor, position: Tensor, index: Tensor) -> Tensor:
        return (layer * n + position) * width + index

    places = key(everything.layer, everything.position, everything.index)
    own = torch.searchsorted(places, key(nodes.layer[rows], nodes.position[rows], nodes.index[rows]))
    assert graph.effect is not None
    effect = graph.effect[rows]
    return ChangedFeatures(
        model, asked.tangent.recording, nodes.layer[rows], nodes.position[rows], nodes.index[rows],
        effect, _support(setting, graph, effect), everything, own, graph.provenance.target_tokens[0],
    )  # fmt: skip


def _support(setting: Setting, graph: Graph, effect: Float[Tensor, " unit"]) -> Float[Tensor, " unit"]:
    if setting.support is not None:
        return setting.support
    ranking = graph.provenance.ranking
    return -effect if ranking in ("", "gradient") else support(setting, choice("ranking", ranking, Ranking))
