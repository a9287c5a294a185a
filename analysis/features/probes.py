"""Features on a text: where each is active, and how well its top eigenvectors explain it.

Both read the text once for all layers together, a few windows at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.features.contexts import BATCH
from analysis.features.dictionaries import LayerDictionaries
from analysis.features.explained import Explained
from analysis.features.layer import FeatureLayer
from analysis.streaming import PairMoments
from analysis.text.windows import Windows, activations_on_windows
from bilinear_lm.families import mlp_norm, plain
from bilinear_lm.norms import normalised
from bilinear_lm.sites import Site


@dataclass(frozen=True)
class Probe:
    """The largest eigenvectors of some output features of a layer, to be compared with the features."""

    dictionaries: LayerDictionaries
    features: FeatureLayer
    """Its outputs are those of `chosen`."""
    chosen: Int[Tensor, " n"]
    values: Float[Tensor, "n k"]
    vectors: Float[Tensor, "n k d_in"]

    def moments(self, x: Float[Tensor, "pos width"], written: Float[Tensor, "pos d_out"]) -> PairMoments:
        """Moments of approximation and pre-activation, [n, (everywhere, active), k], at inputs x."""
        n, k = self.values.shape
        x = torch.nn.functional.pad(x, (0, int(self.features.tensor.constant)), value=1.0)
        projections = (self.vectors.flatten(0, 1) @ x.T).view(n, k, len(x))
        approximation = (projections.square() * self.values[..., None]).cumsum(dim=1)
        exact = self.features.outputs @ written.T
        active = (self.dictionaries.outputs.encode(written)[:, self.chosen] != 0).T
        both = [_moments(approximation, exact, seen) for seen in (torch.ones_like(active), active)]
        names = ("count", "mean_x", "mean_y", "xx", "xy", "yy")
        return PairMoments(**{name: torch.stack([part[name] for part in both], dim=1) for name in names})


def explained_by_probes(
    model: nn.Module, probes: Sequence[Probe], windows: Windows, skip: int = 0, progress: bool = False
) -> list[Explained]:
    """How well the top 1, 2, … eigenvectors of each probe explain its features on a text."""
    sites = [site for probe in probes for site in (probe.dictionaries.read, probe.dictionaries.written)]
    totals: dict[int, PairMoments] = {}
    for _, seen in activations_on_windows(model, windows, sites, BATCH, progress):
        for at, probe in enumerate(probes):
            x, written = (
                values[:, skip:].flatten(0, 1).to(probe.values)
                for values in (_read(model, probe.dictionaries.read, seen), seen[probe.dictionaries.written])
            )
            moments = probe.moments(x, written)
            totals[at] = totals[at] + moments if at in totals else moments
    return [Explained.of(probe.chosen, totals[at]) for at, probe in enumerate(probes)]


def _read(model: nn.Module, site: Site, seen: dict[Site, Tensor]) -> Tensor:
    """What the tensor of `feature_layer` reads: the activations at the site, normalised at resid-mid."""
    if site.point == "mlp-in":
        return seen[site]
    norm = mlp_norm(model, site.layer)
    return seen[site] if norm is None else normalised(plain(norm), seen[site])


def _moments(x: Tensor, y: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """The fields of `PairMoments` for x [n, k, pos] and y [n, pos], where `seen` [n, pos] says so.

    `PairMoments.of` for observations along the last axis: the sums over tokens become products of matrices.
    """
    weight = seen.to(x.dtype)[..., None]
    count = weight.sum(dim=1)
    mean_x, mean_y = ((v @ weight).squeeze(-1) / count.clamp(min=1) for v in (x, y[:, None]))
    x, y = x - mean_x[..., None], y - mean_y
    sums = {
        "xx": (x.square() @ weight).squeeze(-1),
        "xy": (x @ (weight * y[..., None])).squeeze(-1),
        "yy": (y.square()[:, None] @ weight).squeeze(-1).expand_as(mean_x),
    }
    means = {"mean_x": mean_x, "mean_y": mean_y.expand_as(mean_x), "count": count.expand_as(mean_x)}
    return {name: value.double() for name, value in (sums | means).items()}
