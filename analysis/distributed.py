"""Processes that share some work, each with a device of its own.

`torchrun` starts them with the same script. Each takes its part, and the results are gathered, so that all
processes end with the result of a single one. For that they need devices of one kind and as many threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed
from jaxtyping import Shaped
from torch import Tensor

from bilinear_lm.errors import InputError


@dataclass(frozen=True)
class Worker:
    """One of `world` processes that share some work, counted from 0."""

    rank: int = 0
    world: int = 1

    def __post_init__(self):
        if not 0 <= self.rank < self.world:
            raise InputError(f"worker {self.rank} of {self.world}; expected 0 to {self.world - 1}")

    @classmethod
    def own(cls) -> Worker:
        """This process in its torch.distributed group; the only one where there is none."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return cls()
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    def of(self, n: int) -> range:
        """The numbers from 0 to n − 1 that are its own: ranges in order, their lengths equal but for one."""
        return range(n * self.rank // self.world, n * (self.rank + 1) // self.world)


WHOLE = Worker()
"""All the work."""


def gather_rows(rows: Shaped[Tensor, "n *axes"]) -> Shaped[Tensor, "total *axes"]:
    """The rows of all processes, one after the other by rank; how many each has may differ.

    Without a torch.distributed group these are the rows themselves.
    """
    world = Worker.own().world
    if world == 1:
        return rows
    lengths = rows.new_empty(world, dtype=torch.long)
    torch.distributed.all_gather(list(lengths.split(1)), torch.tensor([len(rows)], device=rows.device))
    longest = int(lengths.max())
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in range(world)]
    torch.distributed.all_gather(gathered, padded)
    return torch.cat([part[:n] for part, n in zip(gathered, lengths.tolist(), strict=True)])


@contextmanager
def process_group(device: torch.device) -> Iterator[Worker]:
    """While open, the processes that torchrun started are a group; yields which of them this one is.

    On GPUs each takes the one of its number on its machine. Without torchrun it is all the work.
    """
    if not torch.distributed.is_torchelastic_launched():
        yield WHOLE
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Worker.own()
    finally:
        torch.distributed.destroy_process_group()
