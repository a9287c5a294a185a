"""A bilinear layer between features: contributions of pairs of input features to each output feature.

With dictionaries on both sides, the tensor of a layer is B̃_abc = Σ_ijk u_ai B_ijk f_bj f_ck, with u_a the
columns of the output dictionary's **encoder** (what a feature reads) and f_b the rows of the input
dictionary's **decoder** (what a feature writes); arXiv 2410.08417, section 3. It has n_out · n_in² entries
and is never built: `FeatureLayer` gives one interaction matrix, or the upper half of it strip by strip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_index
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.distributed import WHOLE, Worker
from bilinear_lm.errors import InputError
from bilinear_lm.files import require_finite
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.numerics.rescaling import times_two_to, unordinary_exponent
from bilinear_lm.shown import shown
from bilinear_lm.sites import Point, Site
from bilinear_lm.tensor import BilinearTensor
from bilinear_lm.weights import mlp_tensor

STRIP_ROWS, STRIP_ROWS_ON_GPU = 512, 2048
"""Rows of an interaction matrix that are computed at once: enough for a fast matrix product."""

READ: tuple[Point, ...] = ("mlp-in", "resid-mid")
"""Points whose features describe the input of an MLP."""

WRITTEN: Point = "mlp-out"
"""The point whose features describe the output of an MLP."""


@shown
@dataclass(frozen=True)
class FeatureLayer:
    """A bilinear layer, the features that describe its input, and the directions that read its output.

    For an input x = origin + Σ_i c_i f_i with codes c, and Q_u[i, j] = u · B(f_i, f_j),

        u · B(x, x) = constant + Σ_i linear_i c_i + Σ_i Q_ii c_i² + Σ_{i<j} 2 Q_ij c_i c_j.

    >>> tensor = BilinearTensor(torch.randn(8, 32), torch.randn(8, 32), torch.randn(32, 8))
    >>> features = FeatureLayer(tensor, inputs=torch.randn(20, 8), outputs=torch.randn(30, 8))
    >>> features.matrix(features.outputs[3]).shape
    torch.Size([20, 20])
    """

    tensor: BilinearTensor
    inputs: Float[Tensor, "n_in width"]
    """Rows are what features add to the input; the constant coordinate is left out."""
    outputs: Float[Tensor, "n_out d_out"]
    """Rows are the directions along which output features read the output."""
    origin: Float[Tensor, " width"] | None = None
    """The input where no feature is active, a dictionary's `b_dec`; None: zero."""

    def __post_init__(self):
        tensor, width = self.tensor, self.tensor.d_in - self.tensor.constant
        if tensor.batch_shape:
            raise InputError("a feature layer takes one tensor; give the layers of a batch one by one")
        expected = {"inputs": (width, self.inputs), "outputs": (tensor.d_out, self.outputs)}
        if self.origin is not None:
            expected["origin"] = (width, self.origin)
        for name, (size, value) in expected.items():
            tensor.require_alike(value, f"{name} of a feature layer")
            if not value.ndim or value.shape[-1] != size or not len(value):
                raise InputError(
                    f"{name} of a feature layer: got {list(value.shape)}; expected a last axis of {size}"
                )
        factors = {"W_gate": tensor.W_gate, "W_in": tensor.W_in, "W_out": tensor.W_out}
        require_finite(factors | {name: value for name, (_, value) in expected.items()}, "a feature layer")

    @classmethod
    def between(cls, tensor: BilinearTensor, inputs: Dictionary, outputs: Dictionary) -> FeatureLayer:
        """The layer from the features that `inputs` writes to those that `outputs` reads."""
        if outputs.nonlinear is not None:
            raise InputError(
                f"the output dictionary {outputs.nonlinear}, so that a feature reads no single direction; "
                "expected one with a linear encoder"
            )
        if inputs.normalization != "none":
            raise InputError(
                f"the input dictionary {inputs.nonlinear}, so that a feature writes no single direction; "
                "expected one without normalisation"
            )
        return cls(tensor, inputs.decoder, outputs.encoder.T, inputs.b_dec)

    @property
    def n_in(self) -> int:
        """Number of input features."""
        return len(self.inputs)

    @property
    def n_out(self) -> int:
        """Number of output features."""
        return len(self.outputs)

    def along(self, directions: Float[Tensor, "n d_out"]) -> FeatureLayer:
        """The same input features, read along other output directions."""
        return replace(self, outputs=directions)

    def scaled(self, outputs: list[int]) -> tuple[FeatureLayer, int, int]:
        """This layer without its origin in numbers of ordinary size, and powers of two for putting back.

        Values for `outputs` as a function of the layer's own input (Q_u) are to be multiplied by 2^first, an
        interaction of two features (f Q_u f) by 2^(first + second). A layer of ordinary numbers
        is returned as it is, with powers 0: no number that is computed from it leaves the range.
        """
        tensor, power = self.tensor.balanced()
        in_power = unordinary_exponent(self.inputs)
        out_power = unordinary_exponent(self.outputs[outputs])
        if tensor is self.tensor and not in_power and not out_power:
            return self, 0, 0
        inputs, read = times_two_to(self.inputs, -in_power), times_two_to(self.outputs, -out_power)
        # Outputs that were not asked for may be too large for these units.
        read = torch.where(torch.isfinite(read), read, 0)
        return FeatureLayer(tensor, inputs, read), power + out_power, 2 * in_power

    def select(self, outputs: int | Iterable[int] | None) -> list[int]:
        """The output features asked for, one or several, checked; all of them for None."""
        if outputs is None:
            return list(range(self.n_out))
        selected = as_list(outputs)
        for feature in selected:
            require_index(feature, self.n_out, "output feature")
        return selected

    def matrix(self, u: Float[Tensor, " d_out"], max_bytes: int = 2**30) -> Float[Tensor, "n_in n_in"]:
        """Q_u[i, j] = u · B(f_i, f_j), symmetric; refused beyond `max_bytes`, where `strips` goes on."""
        needed = self.n_in**2 * self.tensor.dtype.itemsize
        if needed > max_bytes:
            raise InputError(
                f"an interaction matrix of {self.n_in} features needs {needed:,} bytes, more than "
                f"max_bytes={max_bytes:,}; go through `strips`, or raise max_bytes"
            )
        return self.quadratic.pairwise(u, self.inputs)

    def coefficients(
        self, outputs: Int[Tensor, " k"], left: Int[Tensor, " k"], right: Int[Tensor, " k"]
    ) -> Float[Tensor, " k"]:
        """The coefficient of c_left c_right in each output feature: Q_ii, and 2 Q_ij of two features."""
        written = self.quadratic(self.inputs[left], self.inputs[right])
        return (written * self.outputs[outputs]).sum(-1) * torch.where(left == right, 1, 2)

    def self_part(self, u: Float[Tensor, "*axes d_out"]) -> Float[Tensor, "*axes n_in"]:
        """Q_ii: what each feature does with itself, the diagonal of `matrix`."""
        W_gate, W_in = (self.inputs @ factor for factor in (self.quadratic.W_gate, self.quadratic.W_in))
        return (u @ self.tensor.W_out.T) @ (W_gate * W_in).T

    def linear(self, u: Float[Tensor, "*axes d_out"]) -> Float[Tensor, "*axes n_in"]:
        """linear_i = 2 u · B(origin, f_i): from biases of the layer and of the input dictionary."""
        return 2 * self._at_origin(u)[..., : self.inputs.shape[1]] @ self.inputs.T

    def constant(self, u: Float[Tensor, "*axes d_out"]) -> Float[Tensor, "*axes"]:
        """u · B(origin, origin): the output where no feature is active."""
        return self._at_origin(u) @ self._origin

    def strips(
        self, u: Float[Tensor, " d_out"], part: Worker = WHOLE
    ) -> Iterator[tuple[int, Float[Tensor, "rows columns"]]]:
        """The upper half of Q_u as strips (start, Q_u[start : start + rows, start:]).

        A strip begins on the diagonal, so that its first columns hold entries of the lower half too.
        Strips are contracted in the order with the fewest multiplications, about half of those of `matrix`.
        Only the strips of `part` are given: the parts take strips in turn.
        """
        left, right = self.factors(u)
        for start in range(part.rank * self._strip_rows, self.n_in, part.world * self._strip_rows):
            yield start, left[start : start + self._strip_rows] @ right[start:].T

    def multiplications(self, directions: int = 1) -> dict[str, int]:
        """The cost of the strips of so many output directions, for each order of contraction.

        One goes through the d × d matrix Q_u of the layer, one through the hidden units, to which features
        are mapped once. (Through Q_u f without Q_u is never the cheapest.)
        """
        n, d, h, rows = self.n_in, self.inputs.shape[1], self.tensor.d_mlp, self._strip_rows
        entries = sum(min(rows, n - start) * (n - start) for start in range(0, n, rows))
        return {
            "matrix": directions * (d * d * h + n * d * d + entries * d),
            "hidden": 2 * n * d * h + directions * entries * 2 * h,
        }

    def factors(self, u: Float[Tensor, " d_out"]) -> tuple[Float[Tensor, "n_in w"], Float[Tensor, "n_in w"]]:
        """Factors L, R [n_in, w] of Q_u = L Rᵀ, by the order that is cheapest for all output features."""
        if self.through_matrix:
            return self.inputs @ self.quadratic.interaction_matrix(u), self.inputs
        gate, up = self.hidden
        scale = (u @ self.tensor.W_out.T) / 2
        return torch.cat([gate * scale, up * scale], dim=1), torch.cat([up, gate], dim=1)

    @property
    def through_matrix(self) -> bool:
        """Whether going through Q_u is cheaper for all output features than through the hidden units."""
        costs = self.multiplications(self.n_out)
        return costs["matrix"] <= costs["hidden"]

    @property
    def _strip_rows(self) -> int:
        rows = STRIP_ROWS if self.inputs.device.type == "cpu" else STRIP_ROWS_ON_GPU
        return min(rows, rows_at_once(self.n_in * self.tensor.dtype.itemsize))

    @cached_property
    def quadratic(self) -> BilinearTensor:
        """The tensor without its constant coordinate."""
        width, tensor = self.inputs.shape[1], self.tensor
        return BilinearTensor(tensor.W_gate[:width], tensor.W_in[:width], tensor.W_out)

    @cached_property
    def hidden(self) -> tuple[Tensor, Tensor]:
        """Contributions of each input feature to the two sides of the hidden units, [n_in, d_mlp] twice."""
        return self.inputs @ self.quadratic.W_gate, self.inputs @ self.quadratic.W_in

    @cached_property
    def _origin(self) -> Tensor:
        """The origin with the constant coordinate."""
        origin = self.inputs.new_zeros(self.inputs.shape[1]) if self.origin is None else self.origin
        return torch.nn.functional.pad(origin, (0, int(self.tensor.constant)), value=1.0)

    def _at_origin(self, u: Tensor) -> Tensor:
        return self.tensor.matvec(u, self._origin)


@checked
def feature_layer(model: nn.Module, layer: int, inputs: Dictionary, outputs: Dictionary) -> FeatureLayer:
    """The MLP `layer` of a bilinear model between two dictionaries, in float32 at least.

    `inputs` describes what the MLP reads: at mlp-in the tensor is that of the MLP itself, at resid-mid the
    norm's weight is folded in and its scale taken as 1, so that quadratic interactions hold up to one
    positive factor a position. `outputs` reads what the MLP writes: at mlp-out, or at resid-post. A norm
    behind the MLP (Gemma 2, OLMo 2) has its weight folded in too, and its scale taken as 1.
    """
    point = require_site(inputs.target or inputs.site, layer, READ, "input")
    require_site(outputs.site, layer, (WRITTEN, "resid-post"), "output")
    tensor = mlp_tensor(model, layer, fold_norm=point == "resid-mid", fold_norm_after=True)
    tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    inputs, outputs = (part.to(tensor.device, tensor.dtype) for part in (inputs, outputs))
    return FeatureLayer.between(tensor, inputs, outputs)


def as_list(features: int | Iterable[int]) -> list[int]:
    """Features as a list; one number is a list of it."""
    if isinstance(features, Tensor):
        return features.flatten().tolist()
    return [features] if isinstance(features, Integral) else list(features)  # type: ignore[list-item, arg-type]


def require_site(site: Site | None, layer: int, points: tuple[Point, ...], role: str) -> Point:
    """The point of a dictionary's site; InputError unless it is one of `points` of `layer`."""
    expected = " or ".join(f"{layer}-{point}" for point in points)
    if site is None:
        raise InputError(
            f"the {role} dictionary does not tell its site; expected {expected}: name it when you load it"
        )
    if site.layer != layer or site.point not in points:
        raise InputError(f"the {role} dictionary belongs to {site}; expected {expected}")
    return site.point
