"""RMS norms of transformers models, as a factor for each coordinate of x / rms(x)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import rms_norm

from bilinear_lm.families import FAMILIES
from bilinear_lm.families import IDENTITY_EPS as IDENTITY_EPS

_OFFSET_NORMS = {family.offset_norm for family in FAMILIES.values()}


def norm_epsilon(norm: Any) -> float:
    """ε of an RMSNorm, x · γ / sqrt(mean(x²) + ε)."""
    return norm.eps if hasattr(norm, "eps") else norm.variance_epsilon


def norm_factor(norm: Any) -> Float[Tensor, " d_model"]:
    """The factor γ by which an RMSNorm multiplies x / rms(x), or x itself where it is the identity.

    γ is the norm's weight, and 1 + weight in Gemma's norms.
    """
    weight, epsilon = norm.weight.detach(), norm_epsilon(norm)
    if type(norm).__name__ in _OFFSET_NORMS:
        weight = 1 + weight
    return weight / epsilon**0.5 if epsilon >= IDENTITY_EPS else weight


def normalised(norm: Any, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
    """x / rms(x), or x where the RMSNorm is the identity: the vector that its factor multiplies."""
    epsilon = norm_epsilon(norm)
    return x if epsilon >= IDENTITY_EPS else rms_norm(x.float(), x.shape[-1:], eps=epsilon).to(x)


def norm_scale(x: Float[Tensor, "*axes width"], epsilon: float) -> Float[Tensor, "*axes"]:
    """The number that an RMS norm divides x by: sqrt(mean(x²) + ε).

    Where the norm is the identity (ε from IDENTITY_EPS on) the number is relative to sqrt(ε), about 1, as is
    the factor of such a norm (`bilinear_lm.norms.norm_factor`): the norm is x / scale · factor in both cases.
    """
    mean = x.square().mean(dim=-1)
    return (1 + mean / epsilon).sqrt() if epsilon >= IDENTITY_EPS else (mean + epsilon).sqrt()


def norm_gradient(
    w: Float[Tensor, "*axes width"], x: Float[Tensor, "#*axes width"], scale: Float[Tensor, "#*axes"]
) -> Float[Tensor, "*axes width"]:
    """The derivative by x of scale · (w · x) / rms(x), a reading through an RMS norm: w − (w·x) x / (d s²).

    `w` is the reading with the norm's scale s held at `scale`, w · x. What lies along x reads nothing: a
    longer x has a larger scale. For norms with ε below `IDENTITY_EPS`; the derivative of the others is w.
    """
    along = (w * x).sum(dim=-1) / (x.shape[-1] * scale.square())
    return w - along.unsqueeze(-1) * x
