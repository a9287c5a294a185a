"""The difference of two bilinear layers: a bilinear layer itself, in the factors of both.

B − C has the hidden units of B and, with W_out negated, those of C; nothing dense is made. It is the same for
weights that differ by a symmetry (hidden units permuted or rescaled, gate and in swapped), since only the
two functions go into it.

Along one output direction the largest change over all inputs is exact (`certify`). Over all output
directions at once it is NP-hard; `largest_change` gives a bracket of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.guarantees.ranges import certify
from analysis.spectra.gram import scaled_unfolding_gram
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_seed
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.rescaling import in_precision
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor


@checked
def difference(tensor: BilinearTensor, other: BilinearTensor) -> BilinearTensor:
    """The layer x ↦ B(x, x) − C(x, x), in the stacked factors of both: d_mlp is the sum of theirs.

    >>> difference(tensor, tensor).norm() < 1e-6 * tensor.norm()  # doctest: +SKIP
    """
    ours, theirs = ((t.batch_shape, t.d_in - t.constant, t.d_out) for t in (tensor, other))
    if ours != theirs:
        raise InputError(
            f"difference of bilinear tensors: got (batch, d_in, d_out) {ours} and {theirs}; expected the same"
        )
    tensor.require_alike(other.W_gate, "the layer to take away")
    if tensor.constant != other.constant:
        tensor, other = (_with_constant(part) for part in (tensor, other))
    return BilinearTensor(
        torch.cat([tensor.W_gate, other.W_gate], dim=-1),
        torch.cat([tensor.W_in, other.W_in], dim=-1),
        torch.cat([tensor.W_out, -other.W_out], dim=-2),
        constant=tensor.constant,
    )


def _with_constant(tensor: BilinearTensor) -> BilinearTensor:
    if tensor.constant:
        return tensor
    W_gate, W_in = (torch.nn.functional.pad(W, (0, 0, 0, 1)) for W in (tensor.W_gate, tensor.W_in))
    return BilinearTensor(W_gate, W_in, tensor.W_out, constant=True)


@shown
@dataclass(frozen=True)
class LargestChange:
    """A bracket of sup ‖f(z)‖ over the inputs ‖z‖ ≤ radius of a bilinear layer f."""

    low: float
    """‖f(z)‖ at `input`, the best input that was found."""
    high: float
    """No input exceeds it."""
    input: Float[Tensor, " width"]
    direction: Float[Tensor, " d_out"]
    """f(z) / ‖f(z)‖ at `input`."""


@checked
def largest_change(
    tensor: BilinearTensor, radius: float | None = None, *, starts: int = 4, steps: int = 12, seed: int = 0
) -> LargestChange:
    """The largest output of a layer over all inputs ‖z‖ ≤ radius and all output directions, in a bracket.

    Above it is σ₁ r², with σ₁ the largest singular value of the tensor unfolded along its outputs, since
    ‖f(z)‖ = ‖Σ_ij B_·ij z_i z_j‖ ≤ σ₁ ‖z zᵀ‖ (with biases r² + 1 in place of r²: the constant coordinate).
    Below it is an input: from the first singular directions u, and from random ones, z ← argmax |u · f(z)|
    (exactly, by `certify`) and u ← f(z) / ‖f(z)‖ in turn, which never falls. The radius is √d by default, as
    RMSNorm leaves it.
    """
    width = tensor.d_in - tensor.constant
    radius = math.sqrt(width) if radius is None else radius
    require_count(starts, f"starts={starts}")
    require_count(steps, f"steps={steps}")
    require_seed(seed)
    gram, power = scaled_unfolding_gram(tensor)
    squares, columns = torch.linalg.eigh(gram)
    sigma = in_precision(squares[-1:].clamp(min=0).sqrt(), power // 2, torch.float64, "singular values")
    high = float(sigma) * (radius**2 + tensor.constant)
    generator = torch.Generator().manual_seed(seed)
    n_random = max(1, starts // 2)
    random = torch.randn(n_random, tensor.d_out, generator=generator, dtype=torch.float64).to(columns)
    first = columns.mT.flip(0)[: max(1, starts - n_random)]
    u = torch.nn.functional.normalize(torch.cat([first, random]), dim=1).to(tensor.dtype)
    z, sizes = _ascend(tensor, u, radius, steps)
    best = int(sizes.argmax())
    out = tensor(z[best])
    direction = torch.nn.functional.normalize(out, dim=0)
    return LargestChange(float(sizes[best]), max(high, float(sizes[best])), z[best], direction)


def _ascend(tensor: BilinearTensor, u: Tensor, radius: float, steps: int) -> tuple[Tensor, Tensor]:
    """Inputs [n, width] from output directions u [n, d_out], and the sizes of the outputs there."""
    sizes = u.new_zeros(len(u))
    z = u.new_zeros(len(u), tensor.d_in - tensor.constant)
    for _ in range(steps):
        span = certify(tensor, u, over="ball", radius=radius)
        z = torch.where((span.high >= -span.low).unsqueeze(-1), span.argmax, span.argmin)
        out = tensor(z)
        new = torch.linalg.vector_norm(out, dim=-1)
        u = torch.nn.functional.normalize(out, dim=-1)
        if bool((new <= sizes * (1 + 1e-6)).all()):
            return z, new
        sizes = new
    return z, sizes
