"""Several processes on one training, started by torchrun; alone, all of this does nothing."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """How many train together, and which of them this is."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and draws the display."""
        return self.rank == 0

    def share(self, layers: int) -> range:
        """This process's range of layers, where each trains its own."""
        return range(layers * self.rank // self.count, layers * (self.rank + 1) // self.count)


def join(cuda: bool) -> Processes:
    """Meet the other processes that torchrun started: gloo between CPUs, nccl between GPUs."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    return Processes(dist.get_rank(), count)


def leave(processes: Processes) -> None:
    """Part from the others."""
    if processes.count > 1 and dist.is_initialized():
        dist.destroy_process_group()


def average(processes: Processes, tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the processes."""
    if processes.count == 1:
        return
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor /= processes.count


def least(processes: Processes, tensor: Tensor) -> None:
    """Replace a tensor by its minimum over the processes."""
    if processes.count > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.MIN)


def wait(processes: Processes) -> None:
    """Until all have come this far."""
    if processes.count > 1:
        dist.barrier()


def joint_kth(processes: Processes, candidates: Float[Tensor, " candidate"], wanted: int) -> Tensor:
    """The value below the `wanted` x (number of processes) largest candidates of all processes; 0 if there are
    fewer."""
    wanted *= processes.count
    if processes.count > 1:
        best = candidates.topk(min(wanted, len(candidates))).values
        padded = torch.full((wanted,), -torch.inf, device=best.device)
        padded[: len(best)] = best
        parts = [torch.empty_like(padded) for _ in range(processes.count)]
        dist.all_gather(parts, padded)
        candidates = torch.cat(parts)
        candidates = candidates[candidates > -torch.inf]
    if len(candidates) <= wanted:
        return candidates.new_zeros(())
    if candidates.is_cuda:
        return candidates.topk(wanted + 1).values[-1]
    return candidates.kthvalue(len(candidates) - wanted).values
