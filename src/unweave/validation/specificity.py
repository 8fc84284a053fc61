"""Whether the units found for one answer matter elsewhere: on ordinary text, and for the answers of other prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.kinds import typed
from ..errors import OptionError
from ..evaluation.prompts import prompts_of
from ..graphs.graph import Graph
from ..interventions.edits import EVERYWHERE, Feature, set_to
from ..interventions.interventions import intervene_each
from ..models.language_model import LanguageModel
from ..models.places import neurons_changed
from ..response.means import texts
from ..transcoders.replacement import ReplacementModel
from .putting import Changed, ChangedNeurons, changed_of, mask_of

SIZES = (1, 2, 4, 8, 16, 32, 64)
ENOUGH = 2.0
"""Nats that the graph's own answer should lose."""
DRAWS = 3
"""Sets of random units."""


@dataclass(frozen=True)
class Loss:
    """What putting a set of units to their baseline costs."""

    here: float
    """Nats of log-probability that the graph's own answer loses, units changed where they are in the graph."""
    text: float
    """Nats a token that ordinary text loses, units changed at every position but the first."""
    answers: float
    """How many of the other prompts have another likeliest token, units changed at every position but the first."""


@dataclass(frozen=True)
class Specificity:
    """What the strongest units of a response graph cost here and elsewhere, beside random ones of the same layers."""

    units: int
    """How many: the fewest of 1, 2, 4, ... that cost the answer 2 nats, else the most that were tried."""
    found: Loss
    random: Loss
    """The mean over several draws."""
    prompts: int
    """How many other prompts were tried."""
    tokens: int
    """Of ordinary text."""


@typed
def specificity(
    model: ReplacementModel | LanguageModel,
    graph: Graph,
    *,
    enough: float = ENOUGH,
    prompts: Sequence[str] | None = None,
    seed: int = 0,
) -> Specificity:
    """Put the units that hold a graph's answer up to their baseline here, on ordinary text and on other prompts.

    A unit that is in the graph at several positions is put to its mean baseline over them elsewhere.

    Args:
        enough: units are added, the strongest first, until the answer has lost so many nats.
        prompts: the other prompts; None: those that dictionaries are judged on (`unweave eval`).

    Raises:
        GraphError: as in `circuit_curve`.
        OptionError: a model without a tokenizer, or a mixture of experts.

    >>> import unweave                                                        # doctest: +SKIP
    >>> model = unweave.load_model("smollm2")                                 # doctest: +SKIP
    >>> graph = unweave.response_graph(model, "The capital of France is")     # doctest: +SKIP
    >>> unweave.specificity(model, graph).found.answers                       # doctest: +SKIP
    """
    language_model = model.language_model if isinstance(model, ReplacementModel) else model
    if language_model.tokenizer is None:
        raise OptionError(f"{language_model.name} has no tokenizer, so no other prompts; give it one")
    changed = changed_of(model, graph)
    order, drawn = (
        changed.support.argsort(descending=True, stable=True),
        [changed.random(seed + draw) for draw in range(DRAWS)],
    )
    sizes = [size for size in SIZES if size <= len(order)]
    nothing = torch.zeros(changed.size, dtype=torch.bool)
    answers = changed.run([nothing, *(mask_of(changed, changed.own[order[:size]]) for size in sizes)]).answer
    lost = (answers[0] - answers[1:]).tolist()
    size = next((size for size, loss in zip(sizes, lost, strict=True) if loss >= enough), sizes[-1])
    sets = [places[order[:size]] for places in (changed.own, *drawn)]
    others = changed.run([nothing, *(mask_of(changed, places) for places in sets)]).answer
    here = (others[0] - others[1:]).tolist()
    changes = [_values(changed, places) for places in sets]
    own = graph.provenance.prompt
    asked = [prompt for prompt in prompts or prompts_of(language_model.name) if prompt != own]
    text, tokens = _on_text(changed, language_model, changes)
    turned = _on_prompts(changed, language_model, changes, asked)
    losses = [Loss(*parts) for parts in zip(here, (text / max(tokens, 1)).tolist(), turned.tolist(), strict=True)]
    columns = zip(*((loss.here, loss.text, loss.answers) for loss in losses[1:]), strict=True)
    random = Loss(*(sum(column) / DRAWS for column in columns))
    return Specificity(size, losses[0], random, len(asked), tokens)


Values = dict[tuple[int, int], float]
"""What units, by layer and index, are put to."""


def _on_text(changed: Changed, model: LanguageModel, changes: Sequence[Values]) -> tuple[Float[Tensor, " set"], int]:
    """What each set costs on ordinary text, in nats over all its tokens, and how many they are."""
    lost, tokens = torch.zeros(len(changes)), 0
    for ids in texts(model, first=1):
        loss = [_loss(logits, ids) for logits in _elsewhere(changed, ids, changes)]
        lost += torch.stack(loss[1:]) - loss[0]
        tokens += len(ids) - 1
    return lost, tokens


def _on_prompts(
    changed: Changed, model: LanguageModel, changes: Sequence[Values], prompts: Sequence[str]
) -> Float[Tensor, " set"]:
    """On how many prompts each set changes the likeliest token."""
    turned = torch.zeros(len(changes))
    for prompt in prompts:
        tops = [int(logits[-1].argmax()) for logits in _elsewhere(changed, model.tokenize(prompt), changes)]
        turned += torch.tensor([float(top != tops[0]) for top in tops[1:]])
    return turned


def _values(changed: Changed, places: Int[Tensor, " unit"]) -> Values:
    layer, index, value = changed.told(places)
    found: dict[tuple[int, int], list[float]] = {}
    for *unit, put in zip(layer.tolist(), index.tolist(), value.tolist(), strict=True):
        found.setdefault((unit[0], unit[1]), []).append(put)
    return {unit: sum(puts) / len(puts) for unit, puts in found.items()}


def _elsewhere(
    changed: Changed, ids: Int[Tensor, " pos"], changes: Sequence[Values]
) -> list[Float[Tensor, "pos vocab"]]:
    """The logits of another prompt as it is, then with each set of units changed at every position but the first."""
    if not isinstance(changed, ChangedNeurons):
        variants = [
            [set_to(Feature(layer, EVERYWHERE, index), value) for (layer, index), value in values.items()]
            for values in changes
        ]
        recording = changed.model.language_model.record(ids)
        outcomes = intervene_each(changed.model, recording, [[], *variants], "open")
        return [outcome.logits for outcome in outcomes]

    def change(layer: int, h: Tensor) -> Tensor:
        h = h.clone()
        for row, values in enumerate(changes, 1):
            for (at, index), value in values.items():
                if at == layer:
                    h[row, 1:, index] = value
        return h

    model = changed.model
    with neurons_changed(model, change), torch.no_grad():
        prompts = ids.expand(len(changes) + 1, -1).to(model.device)
        return list(model.module(input_ids=prompts, use_cache=False).logits.float().cpu())


def _loss(logits: Float[Tensor, "pos vocab"], ids: Int[Tensor, " pos"]) -> Float[Tensor, ""]:
    return torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum")
