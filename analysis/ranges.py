"""Work on many features split over processes, each with a device of its own.

Under `torchrun` every process runs the same script and takes one range of the features; what it found is
gathered, so that all processes end with the same result, that of one process.

    torch.distributed.init_process_group()          # gloo on CPUs, nccl on GPUs
    found = split_strongest_interactions(features, k=100)
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from analysis.features import FeatureLayer
from analysis.interactions import (
    Interactions,
    merged_interactions,
    n_pairs,
    named,
    require_as_many,
    strongest_interactions,
)
from analysis.processes import Part, gather_rows
from analysis.strongest import Strongest


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
    require_as_many(k, len(selected) * n_pairs(features.n_in))
    own = [selected[place] for place in Part.own().of(len(selected))]
    found = named(Strongest(k, features.inputs), features.n_in)
    if own:
        found = strongest_interactions(features, own, min(k, len(own) * n_pairs(features.n_in)), progress)
    places = torch.stack([found.outputs, found.left, found.right], dim=1)
    places, values = gather_rows(places), gather_rows(found.values)
    into, left, right = places.unbind(1)
    return merged_interactions([Interactions(into, left, right, values)], k)
