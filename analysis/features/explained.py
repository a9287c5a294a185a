"""Whether the top eigenvectors of an output feature explain when it is active on a text.

An output feature reads u · B(x, x) = Σ_i λ_i (v_i · x)². Its approximation by the k largest |λ_i| is
correlated with the whole sum, over all tokens and over those where the feature is active: correlations over
all tokens are flattered by the many where both are near zero (arXiv 2410.08417, section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from analysis.features.contexts import BATCH as CONTEXT_BATCH
from analysis.features.dictionaries import LayerDictionaries
from analysis.features.layer import as_list, require_site
from analysis.spectra.eigen import Eigendecomposition, eigendecompose
from analysis.streaming import PairMoments
from analysis.text.windows import (
    BATCH,
    Windows,
    activations_on_windows,
    batches_of,
    require_windows,
    window_batches,
)
from bilinear_lm.arguments import checked
from bilinear_lm.checks import is_index, require_count, require_floating
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.distributed import Worker, divided
from bilinear_lm.errors import InputError
from bilinear_lm.families import mlp_norm, plain
from bilinear_lm.norms import normalised
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.progress import tqdm
from bilinear_lm.shown import shown
from bilinear_lm.sites import Site, mlp_inputs
from bilinear_lm.tensor import BilinearTensor
from bilinear_lm.weights import mlp_tensor

AT_ONCE = 128
"""Features that are decomposed at once."""

CACHED = 2**21
"""Bytes of approximations that are compared at once on a CPU."""

FEW = 0.1
"""Up to this share of active tokens they are picked out of all."""

SUMS = 16
"""Parts of a text that are summed up one by one."""


@shown
@dataclass(frozen=True)
class Explained:
    """Correlations of output features with their approximations by the top 1, 2, … eigenvectors.

    NaN where a correlation does not exist: a feature that was active less than twice, or never varied.
    """

    features: Int[Tensor, " n"]
    all_tokens: Float[Tensor, "n k"]
    active_tokens: Float[Tensor, "n k"]
    n_tokens: int
    n_active: Int[Tensor, " n"]
    """Tokens where the feature is active: its code is not zero."""

    @classmethod
    def of(cls, features: Int[Tensor, " n"], moments: PairMoments) -> Explained:
        """The result for moments [n, (everywhere, active), k] of approximation and pre-activation."""
        everywhere, active = moments.correlation.cpu().unbind(1)
        n_active = moments.count[:, 1, 0].long().cpu()
        return cls(features.cpu(), everywhere, active, int(moments.count[0, 0, 0]), n_active)


@shown
@dataclass(frozen=True)
class Probe:
    """The largest eigenvectors of some output features of a layer, to be compared with the features."""

    outputs: Dictionary
    """The dictionary that reads the layer's output."""
    chosen: Int[Tensor, " n"]
    """The features, by number."""
    values: Float[Tensor, "n k"]
    vectors: Float[Tensor, "n k d_in"]

    def moments(self, x: Float[Tensor, "pos width"], written: Float[Tensor, "pos d_out"]) -> PairMoments:
        """Moments of approximation and pre-activation, [n, (everywhere, active), k], at inputs x."""
        point = torch.nn.functional.pad(x, (0, self.vectors.shape[2] - x.shape[1]), value=1.0)
        exact = (written @ self.outputs.encoder[:, self.chosen]).T  # [n, pos]
        active = (self.outputs.encode(written)[:, self.chosen] != 0).T
        parts = []
        for some in self._pieces(len(x)):
            vectors, values = self.vectors[some], self.values[some]
            projections = (vectors.flatten(0, 1) @ point.T).view(*values.shape, len(x))
            terms = projections.square_().mul_(values.unsqueeze(-1))
            parts.append(_moments(terms.cumsum(dim=1), exact[some], active[some]))
        columns = ([getattr(part, field.name) for part in parts] for field in fields(PairMoments))
        return PairMoments(*(torch.cat(column) for column in columns))

    def _pieces(self, n_pos: int) -> Iterator[slice]:
        """Features that are compared at once, so that a processor's cache holds their approximations."""
        each = n_pos * self.values.shape[1] * self.values.dtype.itemsize
        most = max(1, CACHED // each) if self.values.device.type == "cpu" else rows_at_once(8 * each)
        return (slice(start, start + most) for start in range(0, len(self.values), most))


def _moments(
    approximation: Float[Tensor, "n k pos"], exact: Float[Tensor, "n pos"], active: Bool[Tensor, "n pos"]
) -> PairMoments:
    """Moments [n, (everywhere, active), k] of approximations and pre-activations."""
    parts = [PairMoments.of_series(approximation, exact, torch.ones_like(active))]
    if exact.dtype == torch.float64 or int(active.sum()) > FEW * active.numel():
        parts.append(PairMoments.of_series(approximation, exact, active))
    else:
        feature, at = torch.nonzero(active, as_tuple=True)
        seen = approximation[feature, :, at]
        parts.append(PairMoments.of_groups(seen, exact[feature, at], feature, len(exact)))
    columns = ([getattr(part, field.name) for part in parts] for field in fields(PairMoments))
    return PairMoments(*(torch.stack(column, dim=1) for column in columns))


@checked
def explained_by_eigenvectors(
    tensor: BilinearTensor,
    outputs: Dictionary,
    points: Iterable[Float[Tensor, "n width"]],
    features: int | Sequence[int] | None = None,
    k: int = 10,
) -> Explained:
    """How well the top eigenvectors explain output features at points of a layer, in pieces of any size.

    `outputs` reads the layer's output; `points` are inputs of the layer, without the constant coordinate
    (`mlp_inputs`). None: all features.

    Raises InputError for a dictionary of another width, a bilinear encoder, k or features out of range, or
    no points.
    """
    compared = _Compared.of(tensor, outputs, _chosen(features, outputs.n_feat), k)
    moments = (each for x in points for each in compared.moments(x))
    first = next(moments, None)
    if first is None:
        raise InputError("no points to explain a layer at; expected one or more")
    return Explained.of(compared.probe.chosen, reduce(add, moments, first))


@dataclass(frozen=True)
class _Compared:
    """A layer and its output features, ready to be compared at points."""

    tensor: BilinearTensor
    probe: Probe

    @classmethod
    def of(cls, tensor: BilinearTensor, outputs: Dictionary, chosen: list[int], k: int) -> _Compared:
        _require_readable(outputs, tensor.d_out)
        tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        outputs = outputs.to(tensor.device, tensor.dtype)
        directions = outputs.encoder.T[chosen]

        def eigen(some: Sequence[int]) -> Eigendecomposition:
            return eigendecompose(tensor, directions[some[0] : some[-1] + 1], k)

        found = divided(range(len(chosen)), eigen, AT_ONCE)
        return cls(tensor, Probe(outputs, torch.tensor(chosen), found.values, found.vectors))

    def moments(self, x: Float[Tensor, "n width"]) -> Iterator[PairMoments]:
        """The moments at some points, in pieces that fit in memory."""
        width = self.tensor.d_in - self.tensor.constant
        require_floating(x, "points to explain a layer at")
        if x.ndim != 2 or x.shape[1] != width:
            raise InputError(f"points to explain a layer at: got {list(x.shape)}; expected [n, {width}]")
        piece = rows_at_once(8 * self.probe.values.numel() * self.tensor.dtype.itemsize)
        for part in x.to(self.tensor.device, self.tensor.dtype).split(piece):
            if len(part):
                yield self.probe.moments(part, self.tensor(part))


@checked
def explained_on_text(
    model: nn.Module,
    layer: int,
    outputs: Dictionary,
    windows: Windows,
    features: int | Sequence[int] | None = None,
    k: int = 10,
    skip: int = 0,
    batch_size: int = BATCH,
    progress: bool = False,
) -> Explained:
    """`explained_by_eigenvectors` for an MLP of a bilinear model at the tokens of a text.

    The first `skip` positions of each window do not count: a beginning-of-sequence token, where activations
    are like nowhere else. The scale of a norm behind the MLP (Gemma 2, OLMo 2) is taken as 1. The processes
    of a torch.distributed group share features and text.
    """
    require_site(outputs.site, layer, ("mlp-out",), "output")
    require_count(skip, f"skip={skip} positions", "0 or more", least=0)
    require_count(batch_size, f"batch_size={batch_size} windows")
    tensor = mlp_tensor(model, layer, fold_norm_after=True)
    require_count(k, f"k={k} eigenvectors", f"1 to d_in={tensor.d_in}", most=tensor.d_in)
    chosen = _chosen(features, outputs.n_feat)

    require_windows(model, windows)
    windows = [window for window in windows if len(window) > skip]
    if not windows:
        raise InputError(
            f"no tokens to explain a layer at behind skip={skip} positions; expected longer windows"
        )
    compared = _Compared.of(tensor, outputs, chosen, k)

    def read(part: range) -> Iterator[tuple[int, list[PairMoments]]]:
        for numbers, ids in window_batches(model, windows, batch_size, only=part):
            x = mlp_inputs(model, ids, [layer])[0, :, skip:].flatten(0, 1)
            yield len(numbers), [reduce(add, compared.moments(x))]

    (total,) = _on_text(windows, batch_size, read, progress)
    return Explained.of(compared.probe.chosen, total)


def explained_by_probes(
    model: nn.Module,
    probes: Sequence[tuple[LayerDictionaries, Probe]],
    windows: Windows,
    skip: int = 0,
    progress: bool = False,
) -> list[Explained]:
    """How well the top 1, 2, … eigenvectors explain features of several layers, in one pass over a text.

    The processes of a torch.distributed group share the text.
    """
    require_windows(model, windows)
    sites = list(dict.fromkeys(site for around, _ in probes for site in (around.read, around.written)))

    def of_batch(seen: dict[Site, Tensor]) -> Iterator[PairMoments]:
        for around, probe in probes:
            x, written = (
                values[:, skip:].flatten(0, 1).to(probe.values)
                for values in (_read(model, around.read, seen), seen[around.written])
            )
            yield probe.moments(x, written)

    def read(part: range) -> Iterator[tuple[int, list[PairMoments]]]:
        for numbers, seen in activations_on_windows(model, windows, sites, CONTEXT_BATCH, only=part):
            yield len(numbers), list(of_batch(seen))

    totals = _on_text(windows, CONTEXT_BATCH, read, progress)
    return [Explained.of(probe.chosen, total) for (_, probe), total in zip(probes, totals, strict=True)]


def _on_text(
    windows: Windows,
    batch_size: int,
    read: Callable[[range], Iterator[tuple[int, list[PairMoments]]]],
    progress: bool,
) -> list[PairMoments]:
    """The sums of moments over a text, which processes share.

    `read` gives those of each batch in a range of them, with how many windows it has. The text is summed up
    in `SUMS` parts, whoever reads them, so that the rounding is the same.
    """
    batches = batches_of(windows, batch_size)
    parts = [part for number in range(SUMS) if (part := Worker(number, SUMS).of(len(batches)))]

    def of_part(some: Sequence[range]) -> tuple[PairMoments, ...]:
        totals: list[PairMoments] = []
        for n_windows, moments in read(some[0]):
            totals = [*map(add, totals, moments)] if totals else moments
            bar.update(n_windows)
        return tuple(total[None] for total in totals)

    own = Worker.own().of(len(parts))
    total = sum(len(batches[number]) for part in parts[own.start : own.stop] for number in part)
    with tqdm(total=total, desc="windows", disable=not progress) as bar:
        sums = divided(parts, of_part)
    return [reduce(add, (each[number] for number in range(len(each.count)))) for each in sums]


def _read(model: nn.Module, site: Site, seen: dict[Site, Tensor]) -> Tensor:
    """The input of `feature_layer`'s tensor: the activations at the site, normalised at resid-mid."""
    norm = None if site.point == "mlp-in" else mlp_norm(model, site.layer)
    return seen[site] if norm is None else normalised(plain(norm), seen[site])


def _chosen(features: int | Sequence[int] | None, n_feat: int) -> list[int]:
    chosen = list(range(n_feat)) if features is None else as_list(features)
    if not chosen or not all(is_index(feature, n_feat) for feature in chosen):
        raise InputError(f"output features {chosen[:5]}; expected some of 0 to {n_feat - 1}")
    return chosen


def _require_readable(outputs: Dictionary, d_out: int) -> None:
    if outputs.d_in != d_out or outputs.encoder_gate is not None:
        raise InputError(
            f"an output dictionary that reads {outputs.d_in} numbers"
            + (" by a bilinear encoder" if outputs.encoder_gate is not None else "")
            + f"; expected one with a linear encoder that reads d_out={d_out}"
        )
    if outputs.nonlinear is not None:
        raise InputError(
            f"the output dictionary {outputs.nonlinear}, so that a feature reads no single direction; "
            "expected one without normalisation"
        )
