"""How much each unit matters, for choosing and ordering: by the gradient on the prompt, or averaged on the way to what
takes its place."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..base.choices import Ranking, choice
from ..models.places import neurons_changed
from .asking import ResponseQuestion
from .backward import real_gradients
from .setting import Setting, taken_tokens
from .tangents import Cut, Starts
from .units import Units

INPUTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How far the embeddings are moved where gradients are taken; both ends as in EAP-IG."""
GATES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""How far neurons are between what they are put to and what they would be: middles of five steps."""


def ranking_of(asked: ResponseQuestion, ranking: Ranking) -> Ranking:
    """A ranking that the question allows, `auto` as what it means.

    Raises:
        OptionError: another word.
    """
    choice("ranking", ranking, Ranking)
    if asked.target is None or asked.tangent.held:
        return "gradient"
    if ranking == "auto":
        ranking = "gates" if asked.reference.name == "contrast" else "gradient"
    gated = asked.transcoders is None and asked.model.architecture.up is not None
    return "inputs" if ranking == "gates" and not gated else ranking


def strengths(
    asked: ResponseQuestion, start: Starts, units: Sequence[Units], ranking: Ranking
) -> list[Float[Tensor, " unit"]]:
    """By layer, how much each unit holds the target up; negative: it pushes the target down.

    Gradient: times what is taken away, the first-order effect. Inputs: the same, gradients averaged over embeddings on
    the way to those of what takes the prompt's place (EAP-IG: Hanna et al. 2024, "Have Faith in Faithfulness"). Gates:
    each neuron is what it is put to plus a share of the difference to what it would be; the derivative by that share,
    averaged over shares, the same for all neurons (Sundararajan et al. 2017, "Axiomatic Attribution": they add up to
    what taking all neurons away does).
    """
    match ranking_of(asked, ranking):
        case "gates":
            return _by_gates(asked, units)
        case "inputs":
            writes = _by_inputs(asked, int(start.position[0]) + 1)
        case _:
            writes = _by_sweep(asked, start)
    return [_gradients(asked, part, layer, writes) * part.taken for layer, part in enumerate(units)]


def support(setting: Setting, ranking: Ranking) -> Float[Tensor, " unit"]:
    """The strengths of a graph's own units."""
    chosen = setting.chosen
    parts = [chosen.select(chosen.at(layer)) for layer in range(len(setting.rests))]
    return torch.cat(strengths(setting.asked, setting.start, parts, ranking))


def reference_neurons(asked: ResponseQuestion) -> Float[Tensor, "layer pos neuron"]:
    """What every neuron is put to; where nothing takes its place, what it is."""
    own = torch.stack([layer.mlp.activations() for layer in asked.tangent.layers])
    found = asked.reference.neurons
    made = torch.zeros_like(own) if found is None else torch.stack(list(found)).clone()
    for kept in (asked.reference.kept, slice(0, asked.silent)):
        made[:, kept] = own[:, kept]
    return made


def _by_sweep(asked: ResponseQuestion, start: Starts) -> Float[Tensor, "layer pos d"]:
    """The target's gradients where units write."""
    tangent, n = asked.tangent, int(start.position[0]) + 1
    writes = tangent.recording.final.new_zeros(len(tangent.layers), n, tangent.recording.final.shape[1])

    def keep(layer: int, g: Tensor, inside: Tensor, mlp: object) -> None:
        writes[layer] = (g if asked.basis.residual else inside)[0]

    tangent.sweep(start, Cut(), watcher=keep)
    return writes


def _by_inputs(asked: ResponseQuestion, n: int) -> Float[Tensor, "layer pos d"]:
    assert asked.target is not None
    own, taken, total = asked.tangent.recording.embeddings, taken_tokens(asked, n), 0
    for share in INPUTS:
        entered = own - share * taken
        total += real_gradients(
            asked.model, asked.ids, asked.target.measure, residual=asked.basis.residual, entered=entered
        )[0]
    assert isinstance(total, Tensor)
    return total / len(INPUTS)


def _by_gates(asked: ResponseQuestion, units: Sequence[Units]) -> list[Float[Tensor, " unit"]]:
    assert asked.target is not None
    reference, found = reference_neurons(asked), [torch.zeros_like(part.taken) for part in units]
    for share in GATES:
        live: dict[int, Tensor] = {}

        def part_way(layer: int, h: Tensor, share: float = share, live: dict[int, Tensor] = live) -> Tensor:
            live[layer] = h[0].detach().to(reference)
            return torch.lerp(reference[layer].to(h), h, share)

        with neurons_changed(asked.model, part_way):
            writes, _ = real_gradients(asked.model, asked.ids, asked.target.measure, residual=False)
        for layer, part in enumerate(units):
            apart = (live[layer] - reference[layer])[part.position, part.index]
            found[layer] += _gradients(asked, part, layer, writes) * apart / len(GATES)
    return found


def _gradients(
    asked: ResponseQuestion, units: Units, layer: int, writes: Float[Tensor, "layer pos d"]
) -> Float[Tensor, " unit"]:
    """Gradients at activations of one layer, from gradients where units write."""
    if asked.transcoders is not None:
        return asked.basis.gradients(units, layer, writes)
    mlp, n = asked.tangent.layers[layer].mlp, writes.shape[1]
    h = writes.new_zeros(n, mlp.width)
    for part in mlp.parts:
        places = part.places(n)
        h[places, part.first : part.first + len(part.writes)] = writes[layer][places] @ part.writes.T
    return h[units.position, units.index]
