"""Whether the top eigenvectors of an output feature explain when it is active on a text.

An output feature reads u · B(x, x) = Σ_i λ_i (v_i · x)². Its approximation by the k largest |λ_i| is
correlated with the whole sum, over all tokens and over those where the feature is active: correlations over
all tokens are flattered by the many where both are near zero (arXiv 2410.08417, section 5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.features.layer import require_site
from analysis.spectra.eigen import Eigendecomposition, eigendecompose
from analysis.streaming import PairMoments
from analysis.text.windows import BATCH, Windows, window_batches
from bilinear_lm.checks import is_index, require_count, require_floating
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.errors import InputError
from bilinear_lm.sites import mlp_inputs
from bilinear_lm.tensor import CHUNK_BYTES, BilinearTensor
from bilinear_lm.weights import mlp_tensor


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
        """Of moments [n, (everywhere, active), k] of approximation and pre-activation."""
        everywhere, active = moments.correlation.cpu().unbind(1)
        n_active = moments.count[:, 1, 0].long().cpu()
        return cls(features.cpu(), everywhere, active, int(moments.count[0, 0, 0]), n_active)


def explained_by_eigenvectors(
    tensor: BilinearTensor,
    outputs: Dictionary,
    points: Iterable[Float[Tensor, "n width"]],
    features: Sequence[int] | None = None,
    k: int = 10,
) -> Explained:
    """How well the top eigenvectors explain output features at points of a layer, in pieces of any size.

    `outputs` reads what the layer writes; `points` are what it reads, without the constant coordinate
    (`mlp_inputs`). None: all features.

    Raises InputError for a dictionary of another width, a bilinear encoder, k or features out of range, or
    no points.
    """
    chosen = _chosen(features, outputs.n_feat)
    _require_readable(outputs, tensor.d_out)
    tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    outputs = outputs.to(tensor.device, tensor.dtype)
    found = eigendecompose(tensor, outputs.encoder.T[chosen], k)
    tokens_at_once = max(1, CHUNK_BYTES // (8 * len(chosen) * k * tensor.dtype.itemsize))
    width = tensor.d_in - tensor.constant

    def checked(x: Tensor) -> Tensor:
        require_floating(x, "points to explain a layer at")
        if x.ndim != 2 or x.shape[1] != width:
            raise InputError(f"points to explain a layer at: got {list(x.shape)}; expected [n, {width}]")
        return x.to(tensor.device, tensor.dtype)

    pieces = (x for seen in points for x in checked(seen).split(tokens_at_once))
    moments = (_moments(tensor, outputs, found, x, chosen) for x in pieces if len(x))
    first = next(moments, None)
    if first is None:
        raise InputError("no points to explain a layer at; expected one or more")
    return Explained.of(torch.tensor(chosen), reduce(add, moments, first))


def explained_on_text(
    model: nn.Module,
    layer: int,
    outputs: Dictionary,
    windows: Windows,
    features: Sequence[int] | None = None,
    k: int = 10,
    skip: int = 0,
    batch_size: int = BATCH,
    progress: bool = False,
) -> Explained:
    """`explained_by_eigenvectors` for an MLP of a bilinear model at the tokens of a text.

    The first `skip` positions of each window do not count: a beginning-of-sequence token, where activations
    are like nowhere else.
    """
    require_site(outputs.site, layer, ("mlp-out",), "output")
    require_count(skip, f"skip={skip} positions", "0 or more", least=0)
    require_count(batch_size, f"batch_size={batch_size} windows")
    tensor = mlp_tensor(model, layer)
    require_count(k, f"k={k} eigenvectors", f"1 to d_in={tensor.d_in}", most=tensor.d_in)
    chosen = _chosen(features, outputs.n_feat)

    def points() -> Iterator[Tensor]:
        for _, ids in window_batches(model, windows, batch_size, progress):
            yield mlp_inputs(model, ids, [layer])[0, :, skip:].flatten(0, 1)

    return explained_by_eigenvectors(tensor, outputs, points(), chosen, k)


def _moments(
    tensor: BilinearTensor, outputs: Dictionary, found: Eigendecomposition, x: Tensor, chosen: list[int]
) -> PairMoments:
    """Moments of approximation and pre-activation at points x, [n_features, (everywhere, active), k]."""
    written = tensor(x)
    active = outputs.encode(written)[:, chosen] != 0
    point = torch.nn.functional.pad(x, (0, int(tensor.constant)), value=1.0)
    projections = torch.einsum("pd,fkd->pfk", point, found.vectors)
    approximation = (found.values * projections.square()).cumsum(dim=-1)
    exact = written @ outputs.encoder[:, chosen]
    return PairMoments.of(
        approximation[:, :, None],
        exact[:, :, None, None],
        torch.stack([torch.ones_like(active), active], dim=-1).unsqueeze(-1),
    )


def _chosen(features: Sequence[int] | None, n_feat: int) -> list[int]:
    chosen = list(range(n_feat)) if features is None else list(features)
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
