"""How strongly a bilinear layer acts along an output direction, for all directions at once."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from bilinear_lm.tensor import CHUNK_BYTES, BilinearTensor


def output_gram(tensor: BilinearTensor) -> Float[Tensor, "d_out d_out"]:
    """G_ab = ⟨Q_a, Q_b⟩, the inner products of the interaction matrices of the outputs.

    G = ½ Pᵀ [(WᵀW ∘ VᵀV) + (WᵀV ∘ VᵀW)] P with W, V, P = W_gate, W_in, W_out, so never the tensor.
    """
    gate, into, out = tensor.W_gate, tensor.W_in, tensor.W_out
    gram = out.new_zeros(tensor.d_out, tensor.d_out)
    at_once = max(1, CHUNK_BYTES // (tensor.d_mlp * tensor.dtype.itemsize))
    for start in range(0, tensor.d_mlp, at_once):
        piece = slice(start, start + at_once)
        pairs = (gate[:, piece].T @ gate) * (into[:, piece].T @ into)
        pairs += (gate[:, piece].T @ into) * (into[:, piece].T @ gate)
        gram += out[piece].T @ (pairs @ out) / 2
    return gram


def strength(tensor: BilinearTensor, u: Float[Tensor, "*axes d_out"]) -> Float[Tensor, "*axes"]:
    """Frobenius norm of Q_u for output directions u, all from one Gram matrix: sqrt(u G uᵀ)."""
    return ((u @ output_gram(tensor)) * u).sum(-1).clamp(min=0).sqrt()
