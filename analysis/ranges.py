"""Work on many features split over processes, each with a device of its own.

Under `torchrun` every process runs the same script and takes one range of the features; what it found is
gathered, so that all processes end with the same result, that of one process.

    torch.distributed.init_process_group()          # gloo on CPUs, nccl on GPUs
    found = split_strongest_interactions(features, k=100)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed
from jaxtyping import Shaped
from torch import Tensor

from analysis.features import FeatureLayer
from analysis.interactions import (
    Interactions,
    merged_interactions,
    n_pairs,
    named,
    require_count,
    strongest_interactions,
)
from analysis.strongest import Strongest
from bilinear_lm.errors import InputError


@dataclass(frozen=True)
class Part:
    """One of `world` parts of some work, counted from 0."""

    rank: int = 0
    world: int = 1

    def __post_init__(self):
        if not 0 <= self.rank < self.world:
            raise InputError(f"part {self.rank} of {self.world}; expected 0 to {self.world - 1}")

    @classmethod
    def own(cls) -> Part:
        """That of this process in its torch.distributed group; all the work where there is none."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return cls()
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    def of(self, n: int) -> range:
        """The numbers from 0 to n − 1 that belong to it: ranges in order, their lengths equal but for one."""
        return range(n * self.rank // self.world, n * (self.rank + 1) // self.world)


def gather_rows(rows: Shaped[Tensor, "n *axes"]) -> Shaped[Tensor, "total *axes"]:
    """The rows of all processes, one after the other by rank; how many each has may differ.

    Without a torch.distributed group these are the rows themselves.
    """
    world = Part.own().world
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


def split_strongest_interactions(
    features: FeatureLayer, outputs: Iterable[int] | None = None, k: int = 50, progress: bool = False
) -> Interactions:
    """`strongest_interactions` with the output features split over the processes of a group.

    Every process is to call it with the same arguments, and gets the whole result. Each has the whole layer
    on its own device. The result is that of one process, to the last bit where the device, its number of
    threads and the alignment of the tensors in memory are alike. Without a group, give the `outputs` of each
    part (`Part.of`) to `strongest_interactions`, and the results to `merged_interactions`.
    """
    selected = list(dict.fromkeys(features.select(outputs)))
    require_count(k, len(selected) * n_pairs(features.n_in))
    own = [selected[place] for place in Part.own().of(len(selected))]
    found = named(Strongest(k), features.n_in)
    if own:
        found = strongest_interactions(features, own, min(k, len(own) * n_pairs(features.n_in)), progress)
    device, dtype = features.inputs.device, features.inputs.dtype
    places = torch.stack([found.outputs, found.left, found.right], dim=1).to(device)
    places, values = gather_rows(places), gather_rows(found.values.to(device, dtype))
    into, left, right = places.unbind(1)
    return merged_interactions([Interactions(into, left, right, values)], k)
