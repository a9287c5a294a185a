"""The OV circuit between directions: a head's output along one where it attends to another.

A head that attends with weight 1 to a direction f adds f W_V W_O to the residual stream, read along r:
f W_V W_O · r (Elhage et al. 2021, OV circuits). Scales of the norm in front are taken as 1; a norm behind the
attention or a multiplier (Gemma 2, Granite) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attention.layer import AttentionLayer
from analysis.attention.pairs import HeadPairs, require_products, strongest_pairs
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_finite_numbers
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class FeatureOutputs:
    """Outputs of heads between source and reader directions, in factors; made by `feature_outputs`."""

    sources: Float[Tensor, "n_heads n d_head"]
    """f W_V."""
    readers: Float[Tensor, "n_heads m d_head"]
    """r W_Oᵀ."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """n_heads, sources, readers; the constant row counted."""
        return self.sources.shape[0], self.sources.shape[1], self.readers.shape[1]

    def matrix(self, max_bytes: int = 2**30) -> Float[Tensor, "n_heads n m"]:
        """f_i W_V W_O · r_j for all pairs; refused beyond `max_bytes`, where `strongest_outputs` goes on."""
        n_heads, n, m = self.shape
        needed = n_heads * n * m * self.sources.element_size()
        if needed > max_bytes:
            raise InputError(
                f"what {n_heads} heads write from {n} to {m} directions needs {needed:,} bytes, more than "
                f"max_bytes={max_bytes:,}; take `strongest_outputs`, or raise max_bytes"
            )
        written = self.sources @ self.readers.mT
        if not torch.isfinite(written).all():
            raise InputError(
                f"what heads write overflows {written.dtype}; expected finite numbers: scale the directions "
                "down, or compute in float64"
            )
        return written


@checked
def feature_outputs(
    layer: AttentionLayer,
    sources: Float[Tensor, "n d_model"],
    readers: Float[Tensor, "m reader_width"],
    *,
    constant: bool = False,
) -> FeatureOutputs:
    """Compute what each head writes along `readers` where it attends to `sources`.

    Sources are vectors added to the stream (decoder rows, embeddings); readers are directions along which it
    is read (encoder columns and columns of W_U, as rows; eigenvectors). With `constant` one more source, the
    last, stands for the value bias b_V, which is written with a total weight of 1.
    """
    require_finite_numbers(sources, "directions that an attention layer reads")
    require_finite_numbers(readers, "directions that read an attention layer")
    values, W_O = layer.project("V", sources, constant), layer.weights.W_O
    if readers.shape[-1] != layer.d_model or not len(readers):
        raise InputError(
            f"directions that read an attention layer: got {list(readers.shape)}; expected one row or more "
            f"of {layer.d_model}"
        )
    reading = torch.einsum("md,hed->hme", readers.to(W_O), W_O)
    require_products(values, reading, "outputs of heads")
    return FeatureOutputs(values, reading)


@checked
def strongest_outputs(outputs: FeatureOutputs, k: int = 50, progress: bool = False) -> HeadPairs:
    """The k (head, source, reader) of largest magnitude, computed in strips of sources, head after head."""
    return strongest_pairs(
        lambda head, rows: outputs.sources[head, rows] @ outputs.readers[head].T,
        outputs.shape,
        k,
        outputs.sources,
        progress=progress,
    )
