"""Methods by gradients: on the prompt, averaged on the way to the other prompt, and with patterns and norms held."""

import torch
from jaxtyping import Float
from torch import Tensor

from .data import TARGET, Edge2
from .edge_gradients import edge_slopes, patterns_and_norms_held
from .passes import BatchPass, GivenValues, gradients, run, run_put
from .question import BenchmarkQuestion, pairs, unit
from .score import CircuitScores

STEPS = 5
"""Of integrated gradients."""


def attribution_patching(asked: BenchmarkQuestion) -> CircuitScores:
    """Gradients on the prompt times what changes; of an edge, the part of it that goes that way.

    Source: Nanda 2023, "Attribution patching"; Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit
        Discovery" (edges).
    """
    return _by_gradients(asked, (0.0,))


def integrated_gradients(asked: BenchmarkQuestion) -> CircuitScores:
    """The same, averaged over embeddings between the two prompts.

    Source: Hanna et al. 2024, "Have Faith in Faithfulness" (EAP-IG, inputs).
    """
    return _by_gradients(asked, tuple((step + 0.5) / STEPS for step in range(STEPS)))


def relp(asked: BenchmarkQuestion) -> CircuitScores:
    """Gradients with attention patterns and norms held, as relevance is propagated.

    Its other rules change nothing here: a ReLU is its input times what it lets through, and no MLP multiplies.

    Source: Jafari et al. 2025, "RelP: Faithful and Efficient Circuit Discovery via Relevance Patching".
    """
    other = run(asked.model.language_model, [asked.instead])
    with patterns_and_norms_held(asked.model.language_model, asked.prompt):
        return _by_gradients(asked, (0.0,), other)


def _by_gradients(asked: BenchmarkQuestion, shares: tuple[float, ...], other: BatchPass | None = None) -> CircuitScores:
    model, names = asked.model.language_model, asked.neurons
    base, other = run(model, [asked.prompt]), run(model, [asked.instead]) if other is None else other
    changed, brought = (other.neurons - base.neurons)[0], (other.heads - base.heads)[0]
    moved = (other.embeddings - base.embeddings)[0]
    effect, heads = torch.zeros_like(changed), torch.zeros_like(brought)
    through = torch.zeros(len(names) + 1, *changed.shape, dtype=changed.dtype)
    entered = torch.zeros(len(names) + 1, len(moved), dtype=changed.dtype)
    ends = [unit(name) for name in names]
    for share in shares:
        embeddings = base.embeddings + share * (other.embeddings - base.embeddings)
        here = run_put(model, torch.tensor([asked.prompt]), GivenValues(embeddings=embeddings))
        slopes, head_slopes = gradients(model, embeddings, lambda out: out[:, asked.answer] - out[:, asked.rival])
        direct = edge_slopes(model, here, ends, (asked.answer, asked.rival))
        onward = torch.tensor([*(float(slopes[0][end]) for end in ends), 1.0], dtype=changed.dtype)
        effect += slopes[0] * changed / len(shares)
        heads += head_slopes[0] * brought / len(shares)
        through += onward[:, None, None, None] * direct.neurons * changed / len(shares)
        entered += onward[:, None] * (direct.embeddings * moved).sum(-1) / len(shares)
    by_head = heads.unflatten(-1, (model.config.num_attention_heads, -1)).sum(-1)
    return CircuitScores(
        {name: float(effect[end]) for name, end in zip(names, ends, strict=True)},
        _edges(asked, through, entered),
        {name: float(by_head[unit(name[1:])]) for name in asked.heads}, True,
    )  # fmt: skip


def _edges(
    asked: BenchmarkQuestion, through: Float[Tensor, "end layer pos neuron"], entered: Float[Tensor, "end pos"]
) -> dict[Edge2, float]:
    row = {name: number for number, name in enumerate((*asked.neurons, TARGET))}
    found = {}
    for source, target in pairs(asked):
        layer, at, index = unit(source)
        found[source, target] = float(entered[row[target], at] if layer < 0 else through[row[target], layer, at, index])
    return found
