"""What changes would do to a prediction, to first order: one backward pass through the real model for all features."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .edits import Change, Intervention, add_direction
from .interventions import Prompt, record
from .models import Recording
from .patching import patched
from .plans import Mode, Plan, held, prompt_edits
from .replacement import ReplacementModel

Measure = Callable[[Float[Tensor, " vocab"]], Float[Tensor, ""]]
"""A number from the logits at the last position."""


def lead(token: int) -> Measure:
    """The logit of one token less the largest of all others: above 0 if it is the likeliest.

    >>> float(lead(0)(torch.tensor([3.0, 1.0, 5.0])))
    -2.0
    """
    return lambda logits: logits[token] - torch.cat([logits[:token], logits[token + 1 :]]).max()


def difference(plus: int, minus: int) -> Measure:
    """The logit of one token less that of another."""
    return lambda logits: logits[plus] - logits[minus]


def write_gradients(
    model: ReplacementModel, prompt: Prompt, measure: Measure, mode: Mode = "frozen_attention", *, changes: Sequence[Change] = (), raw: bool = False
) -> Float[Tensor, "layer pos d"]:
    """The gradient of a measure with respect to what is written where the dictionary writes, at each layer and position.

    The pass is that of `intervene` in the same mode with the same changes. In mode `frozen` a gradient times a decoder row
    is what a feature does through the graph's edges, all other features staying as they are.

    Raises:
        PromptError, OptionError: as in `intervene`.

    Source: attribution patching, Nanda 2023; Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery".
    """
    language_model = model.language_model
    recording = record(model, prompt)
    hold = held(mode, None, language_model.n_layers)
    n, layers = len(recording.input_ids), language_model.n_layers
    zeros = torch.zeros(layers, n, language_model.d_model, dtype=language_model.engine_dtype, requires_grad=True)
    pushes = tuple((0, position, add_direction(zeros[layer, position], layer, position, "mlp_out")) for layer in range(layers) for position in range(n))
    plan = prompt_edits(model, recording, [changes])
    with torch.enable_grad(), patched(model, Plan(plan.layers, (*plan.pushes, *pushes)), recording, hold) as seen:
        language_model.module(input_ids=recording.input_ids[None].to(language_model.device), use_cache=False)
        logits = seen.logits[0, -1].to(zeros)
        value = measure(logits if raw else language_model.capped(logits))
        return torch.autograd.grad(value, zeros)[0]


def predicted_effects(
    model: ReplacementModel, recording: Recording, variants: Sequence[Sequence[Intervention]], gradients: Float[Tensor, "layer pos d"]
) -> Float[Tensor, " variant"]:
    """The change of a measure by each variant's changes, to first order, from its `write_gradients` on the same prompt.

    Raises:
        InterventionError: as in `intervene`.
    """
    plan = prompt_edits(model, recording, variants)
    effects = torch.zeros(len(variants), dtype=gradients.dtype)
    for layer, edits in plan.layers.items():
        amount = (edits.slope - 1) * edits.clean + edits.offset
        for at in model.transcoders.writes(layer):
            rows = model.transcoders.decoder_rows(layer, edits.index, at, gradients.dtype)
            effects.index_add_(0, edits.row, (rows * gradients[at, edits.position]).sum(-1) * amount)
    return effects
