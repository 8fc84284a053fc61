"""Whether what is said of an attention head's look holds: predicted beside measured changes of its pattern."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import OptionError
from ..graphs.graph import Graph
from ..models.language_model import LanguageModel
from ..response.attending import Looked
from ..transcoders.replacement import ReplacementModel
from .putting import changed_of, mask_of
from .statistics import Estimate, estimate, same_sign, spearman


@dataclass(frozen=True)
class CheckedLook:
    """One entry of a head's pattern when units are taken away one by one, everything live."""

    rows: Int[Tensor, " unit"]
    """The units, as rows of the graph, the strongest by prediction first."""
    predicted: Float[Tensor, " unit"]
    measured: Float[Tensor, " unit"]
    signed: Estimate
    """Spearman correlation of the two; NaN under three units."""
    sign_share: Estimate
    """Share of the measured changes, by size, whose sign was predicted."""
    together: tuple[float, float]
    """The sum of these predictions, and the measured change when all these units are taken away."""


def check_look(
    model: ReplacementModel | LanguageModel, graph: Graph, looked: Looked, *, most: int = 32, seed: int = 0
) -> CheckedLook:
    """Take away the units that a head's look depends on most, one by one, and read its pattern.

    Args:
        looked: from `attend` on the same graph.
        most: how many units.

    Raises:
        GraphError: as in `circuit_curve`.
        OptionError: `most` is under 1, or a mixture of experts.

    >>> import unweave                                                        # doctest: +SKIP
    >>> model = unweave.load_model("smollm2")                                 # doctest: +SKIP
    >>> graph = unweave.response_graph(model, "The capital of France is")     # doctest: +SKIP
    >>> looked = unweave.attend(model, graph)[0]                              # doctest: +SKIP
    >>> unweave.check_look(model, graph, looked).signed.value                 # doctest: +SKIP
    """
    if most < 1:
        raise OptionError(f"most is {most}; it must be at least 1")
    changed = changed_of(model, graph)
    effect = looked.effect[graph.nodes.features]
    rows = effect.abs().argsort(descending=True, stable=True)[:most]
    rows = rows[effect[rows] != 0]
    language_model = model.language_model if isinstance(model, ReplacementModel) else model
    entries: list[Tensor] = []

    def keep(module: object, args: object, output: tuple[Tensor, ...]) -> None:
        entries.append(output[1][:, looked.head, looked.query, looked.key].detach().double().cpu())

    block = language_model.blocks[looked.layer]
    hook = block.get_submodule(language_model.architecture.attention).register_forward_hook(keep)
    try:
        changed.run([mask_of(changed, changed.own[which]) for which in (rows[:0], rows, *rows.split(1))])
    finally:
        hook.remove()
    pattern = torch.cat(entries)
    predicted, measured = effect[rows].double(), pattern[2 : 2 + len(rows)] - pattern[0]
    return CheckedLook(
        rows, predicted, measured,
        estimate(spearman, predicted, measured, seed=seed), estimate(same_sign, predicted, measured, seed=seed),
        (float(predicted.sum()), float(pattern[1] - pattern[0])),
    )  # fmt: skip
