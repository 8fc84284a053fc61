"""Where tensors live: devices by their names."""

import torch

from ..errors import ModelError


def usable_device(name: str) -> torch.device:
    """A device by its name: `cpu`, `cuda` or one of several as `cuda:1`, `mps`.

    Raises:
        ModelError: an unknown one, or one that is not there.
    """
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdecimal()):
        raise ModelError(f"device {name!r} is unknown; use cpu, cuda, cuda:N or mps")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device {name} is not there: PyTorch sees {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ModelError("device mps is not there: it needs an Apple GPU and a PyTorch built for it; use --device cpu")
    return torch.device(name)
