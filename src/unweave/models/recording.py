"""What one forward pass of the real model leaves behind, and outputs of modules that give several."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Recording:
    """One forward pass of the real model on one prompt, on the CPU, in the dtype of the frozen engine."""

    input_ids: Int[Tensor, " pos"]
    embeddings: Float[Tensor, "pos d"]
    """What enters layer 0: token (and learned position) embeddings, scaled as the model scales them."""
    patterns: tuple[Float[Tensor, "heads pos pos"] | None, ...]
    """None where a layer has none."""
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


class WatchPoint(NamedTuple):
    """A module whose input or output is to be kept."""

    name: Hashable
    module: Any
    side: Literal["in", "out"]
    take: Callable[[Any], Tensor] = first_of
    """What to keep of what it gives; unused for what enters."""


@contextmanager
def watching(
    points: Iterable[WatchPoint], keep: Callable[[Tensor], Tensor] = lambda x: x
) -> Iterator[dict[Any, Tensor]]:
    """What enters or leaves modules in the last forward pass while this lasts, by name, as `keep` makes it; on leaving,
    also by an exception, all hooks are gone."""
    saved: dict[Any, Tensor] = {}

    def entering(name: Hashable) -> Callable[..., None]:
        return lambda module, args, kwargs: saved.update({name: keep(args[0] if args else kwargs["hidden_states"])})

    def leaving(name: Hashable, take: Callable[[Any], Tensor]) -> Callable[..., None]:
        return lambda module, args, output: saved.update({name: keep(take(output))})

    with ExitStack() as stack:
        for name, module, side, take in points:
            if side == "in":
                stack.callback(module.register_forward_pre_hook(entering(name), with_kwargs=True).remove)
            else:
                stack.callback(module.register_forward_hook(leaving(name, take)).remove)
        yield saved


ReadPoint = Literal["mid", "mlp_in", "mlp_in_normalized"]
"""What encoders see: the residual stream before the MLP's norm; the norm's output; the norm's output before its
gain."""


WritePoint = Literal["mlp_out", "residual"]
"""What decoders make: the MLP's own output; what is added to the residual stream (after a norm that may follow)."""
