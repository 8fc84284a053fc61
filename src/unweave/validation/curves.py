"""How much of a prediction the strongest units carry, and how much is left without them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.kinds import typed
from ..errors import GraphError, OptionError
from ..graphs.graph import Graph
from ..models.language_model import LanguageModel
from ..transcoders.replacement import ReplacementModel
from .putting import changed_of, mask_of


@dataclass(frozen=True)
class CircuitCurve:
    """f(C) by the size of C: a share of the target, from 0 (all units are taken away) to 1 (none is)."""

    sizes: tuple[int, ...]
    kept: tuple[float, ...]
    """Of the units alone that hold the target up the most: all others taken away, these computing from what is left."""
    restored: tuple[float, ...]
    """The same with these put to the values they have in the prompt, whatever reaches them."""
    complement: tuple[float, ...]
    """Of all units but these."""
    random: tuple[float, ...]
    """Of as many random units of the same layers alone."""
    random_complement: tuple[float, ...]
    """Of all units but those."""
    whole: float
    """The target in the model as it is."""
    empty: float
    """The target with all units taken away."""

    @property
    def cpr(self) -> float:
        """The mean of f over sizes by the trapezoid rule, sizes as shares of the largest (MIB's CPR, on this range)."""
        return self._area(0.0, list(self.kept))

    @property
    def cmd(self) -> float:
        """The same of |1 - f| (MIB's CMD); 0 is best."""
        return self._area(1.0, [abs(1 - value) for value in self.kept])

    @property
    def units_to_turn(self) -> int | None:
        """The smallest of the sizes whose units, taken away, change the target's sign: the answer falls behind its
        rival. None: none of them does, or the target is no difference that was above 0."""
        left = [self.empty + share * (self.whole - self.empty) for share in self.complement]
        turned = [size for size, value in zip(self.sizes, left, strict=True) if value < 0 < self.whole]
        return turned[0] if turned else None

    def _area(self, first: float, values: list[float]) -> float:
        x = torch.tensor([0.0, *self.sizes], dtype=torch.float64) / self.sizes[-1]
        return float(torch.trapezoid(torch.tensor([first, *values], dtype=torch.float64), x))


@typed
def circuit_curve(
    model: ReplacementModel | LanguageModel,
    graph: Graph,
    sizes: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256),
    *,
    seed: int = 0,
) -> CircuitCurve:
    """Judge the strongest units of a response graph as circuits are judged in the field.

    What is not in the circuit is put to what taking away means in the graph: the other prompt's values with `instead`,
    else means or zero. Neurons: all others are. Features: all others that are on here or in the other prompt, errors
    stay live. The first position keeps its values.

    Args:
        sizes: numbers of units, those first that hold the target up the most (those that push it down come last);
            sizes beyond the graph's units are left out.

    Raises:
        GraphError: not a response graph of this model, pruned, or of a target that is no logit.
        OptionError: no size from 1 up, a mixture of experts.

    Source: f(C), CPR and CMD of Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark".

    >>> import unweave                                                        # doctest: +SKIP
    >>> model = unweave.load_model("smollm2")                                 # doctest: +SKIP
    >>> graph = unweave.response_graph(model, "The capital of France is")     # doctest: +SKIP
    >>> unweave.circuit_curve(model, graph).kept                              # doctest: +SKIP
    """
    changed = changed_of(model, graph)
    wanted = tuple(sorted({int(size) for size in sizes if int(size) <= len(changed.layer)}))
    if not wanted or wanted[0] < 1:
        raise OptionError(f"sizes are {list(sizes)}; give numbers between 1 and the graph's {len(changed.layer)} units")
    order, drawn = changed.support.argsort(descending=True, stable=True), changed.random(seed)
    nothing = torch.zeros(changed.size, dtype=torch.bool)
    put, kept = [nothing, ~nothing], [nothing, nothing]
    for size in wanted:
        chosen, random = (mask_of(changed, places[order[:size]]) for places in (changed.own, drawn))
        put += [~chosen, ~chosen, chosen, ~random, random]
        kept += [nothing, chosen, nothing, nothing, nothing]
    targets = changed.run(put, kept).target
    whole, empty = float(targets[0]), float(targets[1])
    if abs(whole - empty) < 1e-9:
        raise GraphError("taking every unit away does not change the target, so no share of it can be told")
    shares: Tensor = ((targets[2:] - empty) / (whole - empty)).view(len(wanted), 5).T
    return CircuitCurve(wanted, *(tuple(part) for part in shares.tolist()), whole=whole, empty=empty)
