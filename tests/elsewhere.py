"""A device that is not there: tensors that say they are on `meta`, hold their numbers all the same, and refuse to
meet others.

Like an accelerator's, they mix with CPU tensors only by copying, by one number, or as what is indexed; and they are
no arrays.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

ELSEWHERE = torch.device("meta")
MIXING = ("aten::copy_", "aten::index", "aten::index_put_", "aten::_index_put_impl_")


class There(torch.Tensor):
    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "There":
        facts = {
            "strides": inner.stride(),
            "storage_offset": inner.storage_offset(),
            "dtype": inner.dtype,
            "device": ELSEWHERE,
        }
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, **facts)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class Elsewhere(TorchDispatchMode):
    """While it is on, `meta` is that device; counts what is done there."""

    def __init__(self) -> None:
        super().__init__()
        self.done = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.done += any(isinstance(value, There) for value in tree_flatten((args, kwargs))[0])
        return run(function, args, kwargs)


def run(function: Any, args: tuple, kwargs: dict) -> Any:
    values = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    there, here = (
        [v for v in values if isinstance(v, There)],
        [v for v in values if not isinstance(v, There) and v.dim()],
    )
    name = function._schema.name
    if there and here and not (name in MIXING and (name == "aten::copy_" or isinstance(args[0], There))):
        raise RuntimeError(f"{name}: tensors on two devices")
    goes_there, device = bool(there), kwargs.get("device")
    if device is not None:
        goes_there = torch.device(device) == ELSEWHERE
        kwargs = kwargs | {"device": torch.device("cpu")}
    inner_args, inner_kwargs = tree_map(
        lambda value: value.inner if isinstance(value, There) else value, (args, kwargs)
    )
    made = function(*inner_args, **inner_kwargs)
    if "out" in kwargs:
        return kwargs["out"]
    if name.endswith("_") and args and isinstance(args[0], torch.Tensor):
        return args[0]
    return tree_map(lambda value: There(value) if isinstance(value, torch.Tensor) and goes_there else value, made)
