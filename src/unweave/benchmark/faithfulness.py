"""How much of an answer the strongest neurons of a method carry, all others taking their values in the other prompt."""

import math
from collections.abc import Mapping

import torch

from ..models.language_model import LanguageModel
from ..validation.curves import CircuitCurve
from .data import KnownInput
from .passes import GivenValues, run, run_put
from .question import unit

CURVE = ("cpr", "cmd")
"""What is measured by running the model."""


def faithfulness(model: LanguageModel, known: KnownInput, nodes: Mapping[str, float]) -> dict[str, float]:
    """MIB's CPR and CMD of a ranking of neurons, by absolute score.

    f(C) is what the target keeps of the difference between all neurons in question as they are (1) and none (0); those
    outside of C take their values in the other prompt, those in it compute from what is left, and neurons that are not
    in question keep their values. The areas are over sizes 1, 2, 4, ... as shares of all; NaN where without any neuron
    nothing changes.

    Source: Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark".
    """
    names = known.scored_nodes()
    order = sorted(names, key=lambda name: -abs(nodes.get(name, 0.0)))
    sizes = [2**power for power in range(len(names).bit_length()) if 2**power < len(names)] + [len(names)]
    own, other = (run(model, [prompt]).neurons for prompt in (known.prompt, known.instead))
    mask = torch.ones(len(sizes) + 1, *own.shape[1:], dtype=torch.bool)
    values = own.repeat(len(mask), 1, 1, 1)
    for row, size in enumerate((0, *sizes)):
        for number, place in enumerate(map(unit, order)):
            mask[row][place] = number >= size
            values[row][place] = other[0][place]
    ids = torch.tensor([list(known.prompt)]).repeat(len(mask), 1)
    logits = run_put(model, ids, GivenValues(neurons=(mask, values))).logits
    empty, *targets = (logits[:, known.answer] - logits[:, known.rival]).tolist()
    whole = targets[-1]
    if abs(whole - empty) < 1e-9:
        return {"cpr": math.nan, "cmd": math.nan}
    kept = tuple((value - empty) / (whole - empty) for value in targets)
    curve = CircuitCurve(tuple(sizes), kept, (), (), (), (), whole, empty)
    return {"cpr": curve.cpr, "cmd": curve.cmd}
