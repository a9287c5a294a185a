"""Features in superposition: how much of each is represented, what dimension it has, and their geometry.

An encoder E [n, d] writes feature i as its row. Elhage et al. 2022 ("Toy models of superposition") read
‖E_i‖, the dimensionality ‖E_i‖² / Σ_j (Ê_i · E_j)² and the Gram matrix E Eᵀ; these mean something in tied
models, where the layer that reads h back is the encoder itself. Otherwise E·A with A⁻¹ in the next layer is
the same model for every invertible A. Fixed is only the space of the columns of E, and so the Gram matrix of
the encoder that has orthonormal columns, `canonical_encoder`: the projector onto that space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_finite_numbers, require_number
from bilinear_lm.errors import InputError
from bilinear_lm.shown import Words, shown
from bilinear_lm.tensor import BilinearTensor

TOLERANCE = 0.15
"""By default: how far a cosine may lie from that of a shape."""

_NEAR, _FAR = (math.cos(2 * math.pi * k / 5) for k in (1, 2))
SHAPES: dict[int, tuple[str, int, tuple[float, ...]]] = {
    2: ("digon", 1, (-1.0,)),
    3: ("triangle", 2, (-0.5,)),
    4: ("tetrahedron", 3, (-1 / 3,)),
    5: ("pentagon", 2, (_FAR, _FAR, _NEAR, _NEAR)),
}
"""By the number of features: name, rank, and the cosines of one with the others in ascending order."""


@checked
def canonical_encoder(encoder: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n d"]:
    """E (EᵀE)^-½, the encoder of the same column space with orthonormal columns.

    Its rows do not depend, up to a rotation, on the basis of the hidden space; the squares of their lengths
    are the leverages of the features, which add up to d. A tight frame (digons, a triangle, a pentagon) keeps
    its angles. InputError for columns that depend on each other.

    >>> canonical_encoder(torch.tensor([[2.0], [-2.0]]))
    tensor([[ 0.7071],
            [-0.7071]])
    """
    _require_encoder(encoder)
    left, sizes, right = torch.linalg.svd(encoder, full_matrices=False)
    least = max(encoder.shape[-2:]) * torch.finfo(encoder.dtype).eps
    if encoder.shape[-1] > encoder.shape[-2] or (sizes[..., -1] <= least * sizes[..., 0]).any():
        raise InputError(
            f"an encoder {list(encoder.shape)} whose columns depend on each other; expected [n, d] of rank d"
        )
    return left @ right


@checked
def dimensionality(encoder: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n"]:
    """‖E_i‖² / Σ_j (Ê_i · E_j)² of every feature, Ê_i = E_i / ‖E_i‖; 0 for a feature that is not there.

    1 for a feature with a dimension of its own, ½ for one of an antipodal pair, ⅖ in a pentagon (Elhage et
    al. 2022, section "The geometry of superposition").

    >>> dimensionality(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))
    tensor([0.5000, 0.5000, 1.0000])
    """
    _require_encoder(encoder)
    gram = encoder @ encoder.mT
    squares = gram.diagonal(dim1=-2, dim2=-1)
    total = gram.square().sum(-1)  # ‖E_i‖² Σ_j (Ê_i · E_j)²
    return torch.where(total > 0, squares.square() / total.clamp(min=torch.finfo(total.dtype).tiny), total)


@checked
def solo_reconstruction(tensor: BilinearTensor) -> Float[Tensor, "*batch n"]:
    """R² of each feature where it is alone: 1 − E(y_i − x_i)² / Var x_i, with x_i uniform in [0, 1].

    Along e_i output i is the polynomial q x² + l x + c with coefficients of its interaction matrix, and the
    error has a closed form: no input is drawn. 1 for y_i = x_i, 0 for the constant ½, below 0 for what is
    worse. It does not depend on the scale and basis of the hidden space.

    >>> solo_reconstruction(ToyModel(ToySettings(5, 2, 5, None)).folded()[0]).shape
    torch.Size([5])
    """
    n = tensor.d_in - tensor.constant
    if tensor.d_out != n:
        raise InputError(
            f"a layer of {n} inputs and {tensor.d_out} outputs; expected each input to come back"
        )
    Q = tensor.dense()
    index = torch.arange(n, device=Q.device)
    quadratic = Q[..., index, index, index]
    if tensor.constant:
        linear, constant = 2 * Q[..., index, index, n], Q[..., n, n]
    else:
        linear, constant = torch.zeros_like(quadratic), torch.zeros_like(quadratic)
    error = torch.stack([constant, linear - 1, quadratic], dim=-1)  # of 1, x, x²
    moments = 1 / torch.tensor([[1, 2, 3], [2, 3, 4], [3, 4, 5]], dtype=Q.dtype, device=Q.device)
    return 1 - 12 * ((error @ moments) * error).sum(-1)


@shown
@dataclass(frozen=True)
class Shape:
    """Features that are not orthogonal to each other, and the shape that their directions have."""

    features: tuple[int, ...]
    name: str
    """alone, digon, triangle, tetrahedron, pentagon; other for none of these."""
    rank: int
    """How many dimensions they share."""
    error: float
    """The largest distance of a cosine from that of the shape; 0 for other."""


@shown
@dataclass(frozen=True)
class Geometry:
    """Shapes of the features that are represented, orthogonal to each other."""

    shapes: tuple[Shape, ...]
    absent: tuple[int, ...]
    """Features whose length is below the threshold."""

    def _first(self) -> dict[str, Any]:
        names = [f"{self.count(name)} {name}" for name in sorted({shape.name for shape in self.shapes})]
        return {"shapes": Words(", ".join(names) or "none"), "absent": len(self.absent)}

    def count(self, name: str) -> int:
        """How many shapes have this name."""
        return sum(shape.name == name for shape in self.shapes)


@checked
def geometry(
    encoder: Float[Tensor, "n d"], *, tolerance: float = TOLERANCE, threshold: float = 0.5
) -> Geometry:
    """The shapes that features form: digons (antipodal pairs), triangles, tetrahedra, pentagons.

    Features shorter than `threshold` times the longest are absent. The others are grouped by cosines beyond
    `tolerance`; a group has a name where each cosine is within `tolerance` of that of the shape and its rank
    is right: −1; −½ in a plane; −⅓ in space; and for the pentagon cos 72° and cos 144°, twice each feature.

    >>> geometry(torch.tensor([[1.0, 0.0], [-1.0, 0.1], [0.0, 1.0]])).shapes[0].name
    'digon'
    """
    _require_encoder(encoder)
    require_number(tolerance, f"tolerance {tolerance}", "above 0, 0.3 at most", least=1e-12, most=0.3)
    require_number(threshold, f"threshold {threshold}", "0 to 1", least=0, most=1)
    lengths = encoder.norm(dim=-1)
    here = (lengths > threshold * lengths.max()) & (lengths > 0)
    kept = here.nonzero()[:, 0].tolist()
    unit = encoder / lengths.clamp(min=torch.finfo(encoder.dtype).tiny).unsqueeze(-1)
    cosines = unit @ unit.mT
    shapes = [_shape(group, cosines, tolerance) for group in _groups(kept, cosines.abs() > tolerance)]
    absent = (~here).nonzero()[:, 0].tolist()
    return Geometry(tuple(shapes), tuple(absent))


def _groups(features: list[int], joined: Tensor) -> list[list[int]]:
    """Features that are joined, directly or through others, together."""
    groups, left = [], set(features)
    while left:
        group, waiting = set(), [min(left)]
        while waiting:
            at = waiting.pop()
            if at not in group:
                group.add(at)
                waiting += [other for other in left if bool(joined[at, other])]
        left -= group
        groups.append(sorted(group))
    return groups


def _shape(group: list[int], cosines: Tensor, tolerance: float) -> Shape:
    inside = cosines[group][:, group]
    rank = int((torch.linalg.eigvalsh(inside) > tolerance).sum())
    off = inside[~torch.eye(len(group), dtype=torch.bool, device=inside.device)].reshape(len(group), -1)
    if len(group) == 1:
        return Shape(tuple(group), "alone", 1, 0.0)
    name, of_rank, angles = SHAPES.get(len(group), ("other", 0, (0.0,)))
    error = float((off.sort(-1).values - off.new_tensor(angles)).abs().max()) if of_rank else math.inf
    if error > tolerance or rank != of_rank:
        return Shape(tuple(group), "other", rank, 0.0)
    return Shape(tuple(group), name, rank, error)


def _require_encoder(encoder: Tensor) -> None:
    require_finite_numbers(encoder, "the encoder")
    if encoder.ndim < 2 or not encoder.numel():
        raise InputError(f"the encoder has shape {list(encoder.shape)}; expected [features, d]")
