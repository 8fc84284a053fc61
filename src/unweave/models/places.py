"""Where the inside of a model can be seen and changed as it runs: what enters a block, what attention's heads bring,
what neurons put out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from .language_model import LanguageModel

Place = Literal["stream", "heads", "neurons"]
"""What enters a block; what enters attention's output projection, head by head; what enters the MLP's last map."""
PLACES: tuple[Place, ...] = ("stream", "heads", "neurons")


@contextmanager
def hooked(
    model: LanguageModel,
    change: Callable[[Place, int, Float[Tensor, "sequence pos width"]], Tensor | None],
    places: Sequence[Place] = PLACES,
) -> Iterator[None]:
    """`change` is told what passes each place of each layer, and may return what is to pass instead."""
    row = model.architecture

    def before(place: Place, layer: int) -> Callable:
        def hook(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            new = change(place, layer, args[0] if args else kwargs["hidden_states"])
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

        return hook

    with ExitStack() as stack:
        for layer, block in enumerate(model.blocks):
            module = {
                "stream": lambda block=block: block,
                "heads": lambda layer=layer: model.mixed(layer),
                "neurons": lambda block=block: block.get_submodule(row.mlp).get_submodule(row.down),
            }
            for place in places:
                hook = module[place]().register_forward_pre_hook(before(place, layer), with_kwargs=True)
                stack.callback(hook.remove)
        yield


@contextmanager
def neurons_changed(
    model: LanguageModel, change: Callable[[int, Float[Tensor, "sequence pos neuron"]], Tensor | None]
) -> Iterator[None]:
    """The same of neurons alone, `change(layer, activations)`."""
    with hooked(model, lambda place, layer, h: change(layer, h), ("neurons",)):
        yield
