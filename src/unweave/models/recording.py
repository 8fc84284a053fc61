"""What one forward pass of the real model leaves behind, and outputs of modules that give several."""

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Recording:
    """One forward pass of the real model on one prompt, on the CPU, in the dtype of the frozen engine."""

    input_ids: Int[Tensor, " pos"]
    embeddings: Float[Tensor, "pos d"]
    """What enters layer 0: token (and learned position) embeddings, scaled as the model scales them."""
    patterns: tuple[Float[Tensor, "heads pos pos"], ...]
    attention_inputs: tuple[Float[Tensor, "pos d"], ...]
    attention_outputs: tuple[Float[Tensor, "pos d"], ...]
    resid_mid: tuple[Float[Tensor, "pos d"], ...]
    """The residual stream that the MLP (or its norm) reads: after attention, or beside it in a parallel block."""
    mlp_inputs: tuple[Float[Tensor, "pos d"], ...]
    mlp_outputs: tuple[Float[Tensor, "pos d"], ...]
    """What each MLP module returns, before a norm that may follow."""
    final: Float[Tensor, "pos d"]
    """The residual stream before the final norm."""
    logits: Float[Tensor, "pos vocab"]
    """Before a final soft cap."""


def first_of(output: Any) -> Tensor:
    """A module's output, the first of several (an MLP of experts also gives its router's scores)."""
    return output[0] if isinstance(output, tuple) else output


def with_first(output: Any, first: Tensor) -> Any:
    """A module's output with the first of several, or the only one, replaced."""
    return (first, *output[1:]) if isinstance(output, tuple) else first


ReadPoint = Literal["mid", "mlp_in", "mlp_in_normalized"]
"""What encoders see: the residual stream before the MLP's norm; the norm's output; the norm's output before its
gain."""


WritePoint = Literal["mlp_out", "residual"]
"""What decoders make: the MLP's own output; what is added to the residual stream (after a norm that may follow)."""
