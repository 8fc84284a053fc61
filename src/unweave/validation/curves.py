"""How much of a prediction the strongest units carry alone, and how much is left without them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GraphError, OptionError
from ..graphs.graph import Graph
from ..models.language_model import LanguageModel
from ..transcoders.replacement import ReplacementModel
from .putting import ChangedNeurons, neurons_of


@dataclass(frozen=True)
class CircuitCurve:
    """f(C) by the size of C: the target with all other neurons taken away, from 0 (all are) to 1 (none is)."""

    sizes: tuple[int, ...]
    kept: tuple[float, ...]
    """Of the units alone that hold the target up the most."""
    complement: tuple[float, ...]
    """Of all neurons but these."""
    random: tuple[float, ...]
    """Of as many random neurons of the same layers and positions alone."""
    random_complement: tuple[float, ...]
    """Of all neurons but those."""
    whole: float
    """The target in the model as it is."""
    empty: float
    """The target with all neurons taken away."""

    @property
    def cpr(self) -> float:
        """The mean of f over sizes by the trapezoid rule, sizes as shares of the largest (MIB's CPR, on this range)."""
        return self._area([value for value in self.kept])

    @property
    def cmd(self) -> float:
        """The same of |1 - f| (MIB's CMD); 0 is best."""
        return self._area([abs(1 - value) for value in self.kept])

    def _area(self, values: list[float]) -> float:
        x = torch.tensor([0.0, *self.sizes], dtype=torch.float64) / self.sizes[-1]
        first = 0.0 if values == list(self.kept) else 1.0
        return float(torch.trapezoid(torch.tensor([first, *values], dtype=torch.float64), x))


def circuit_curve(
    model: ReplacementModel | LanguageModel,
    graph: Graph,
    sizes: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256),
    *,
    seed: int = 0,
) -> CircuitCurve:
    """Judge the strongest neurons of a response graph as circuits are judged in the field.

    Everything that is not in the circuit is put to what taking away means in the graph: the other prompt's values with
    `instead`, else means or zero. The first position keeps its values.

    Args:
        sizes: numbers of units, those first that hold the target up the most (those that push it down come last);
            sizes beyond the graph's units are left out.

    Raises:
        GraphError: not a response graph of neurons of this model, pruned, or of a target that is no logit.
        OptionError: no size from 1 up, a mixture of experts.

    Source: f(C), CPR and CMD of Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark".

    >>> import unweave                                                        # doctest: +SKIP
    >>> model = unweave.load_model("smollm2")                                 # doctest: +SKIP
    >>> graph = unweave.response_graph(model, "The capital of France is")     # doctest: +SKIP
    >>> unweave.circuit_curve(model, graph).kept                              # doctest: +SKIP
    """
    neurons = neurons_of(model, graph)
    wanted = tuple(sorted({int(size) for size in sizes if int(size) <= len(neurons.layer)}))
    if not wanted or wanted[0] < 1:
        raise OptionError(f"sizes are {list(sizes)}; give numbers between 1 and the graph's {len(neurons.layer)} units")
    order = neurons.effect.argsort(stable=True)
    drawn = torch.randint(neurons.baseline.shape[-1], (len(order),), generator=torch.Generator().manual_seed(seed))
    masks = [
        torch.zeros(neurons.baseline.shape, dtype=torch.bool),
        torch.ones(neurons.baseline.shape, dtype=torch.bool),
    ]
    for size in wanted:
        for index in (neurons.index, drawn):
            chosen = _mask(neurons, order[:size], index)
            masks += [~chosen, chosen]
    targets, _ = neurons.run(masks)
    whole, empty = float(targets[0]), float(targets[1])
    if abs(whole - empty) < 1e-9:
        raise GraphError("taking every neuron away does not change the target, so no share of it can be told")
    shares = ((targets[2:] - empty) / (whole - empty)).view(len(wanted), 4).T.tolist()
    kept, complement, random, without_random = (tuple(part) for part in shares)
    return CircuitCurve(wanted, kept, complement, random, without_random, whole, empty)


def _mask(neurons: ChangedNeurons, which: Tensor, index: Tensor) -> Tensor:
    mask = torch.zeros(neurons.baseline.shape, dtype=torch.bool)
    mask[neurons.layer[which], neurons.position[which], index[which]] = True
    return mask
