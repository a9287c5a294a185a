"""Fourier modes in vectors over residues modulo p, such as eigenvectors of modular addition.

A model of a + b mod p reads one-hot a and b. Where logit c is a weighted sum of cos(2πk(a + b − c)/p) over
frequencies k, eigenvectors of its interaction matrix are waves in a and in b of one frequency (Nanda et al.
2023, arXiv 2301.05217, for the frequencies; arXiv 2410.08417, section 3, for the eigenvectors).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_finite_numbers
from bilinear_lm.errors import InputError


@checked
def frequency_shares(vectors: Float[Tensor, "*axes parts p"]) -> Float[Tensor, "*axes frequencies"]:
    """The share of each frequency 0 to ⌊p/2⌋ in the power of vectors; `parts` (a and b) are summed.

    Power is the squared length of the projection on the waves cos(2πkj/p + φ) of that frequency, over all of
    it; shares add up to 1. A vector of zeros has none.

    >>> wave = torch.cos(2 * torch.pi * 2 * torch.arange(7) / 7)
    >>> frequency_shares(torch.stack([wave, -wave])).round(decimals=3)
    tensor([0., 0., 1., 0.])
    """
    require_finite_numbers(vectors, "vectors over residues")
    if vectors.ndim < 2 or not vectors.numel():
        raise InputError(f"vectors over residues {list(vectors.shape)}; expected [..., parts, p]")
    p = vectors.shape[-1]
    power = torch.fft.rfft(vectors).abs().square()
    both = torch.full((power.shape[-1],), 2.0, dtype=power.dtype, device=power.device)
    both[0] = 1.0  # frequencies k and p − k are one, but for 0 and p/2
    if p % 2 == 0:
        both[-1] = 1.0
    power = (power * both).sum(-2)
    total = power.sum(-1, keepdim=True)
    return power / total.clamp(min=torch.finfo(power.dtype).tiny)
