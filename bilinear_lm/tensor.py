"""The third-order tensor of a bilinear layer, kept in its factors.

A bilinear MLP computes `(x W_gate ∘ x W_in) W_out`: each output is a quadratic form of the input. The
tensor behind it, symmetrised in its two inputs,

    B(x, y) = ½ [(x W_gate ∘ y W_in) + (y W_gate ∘ x W_in)] W_out,        B(x, x) is the layer,

has d_out · d_in² entries; its factors have 2 d_in d_mlp + d_mlp d_out. Everything here is computed from
the factors, with intermediates bounded by `bilinear_lm.numerics.memory`. (Pearce, Dooms et al., arXiv
2410.08417, section 2.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilinear_lm.checks import require_floating
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.contractions import change_basis, interaction_matrices, pairwise
from bilinear_lm.numerics.inner import cosine, inner, norm
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.numerics.rescaling import balanced, in_precision
from bilinear_lm.shown import Words, shown


@shown
@dataclass(frozen=True)
class BilinearTensor:
    """The symmetrised tensor of a bilinear layer, or a batch of them, in factors.

    Shapes: W_gate, W_in [*batch, d_in, d_mlp]; W_out [*batch, d_mlp, d_out]. Nothing computed from it
    depends on the order of the hidden units, on which factor is called gate, or on gate·c and in/c.

    With `constant=True` the last input coordinate is the constant 1 that carries the biases:
    W_gate = [W; b]. Then `d_in` counts it, and inputs may leave it out: points (`x`, `y` of a call) have
    it 1, directions (`left`, `right`, `v`) have it 0. `from_layer` makes such a tensor from biases.

    Vectors carry the tensor's batch axes first; their other axes are free. Weights and vectors are floating
    point of one precision and of any size. Results that the precision cannot hold are refused, except at
    points (a call, matvec), which are computed as in any layer of torch.

    >>> layer = BilinearTensor(torch.randn(8, 32), torch.randn(8, 32), torch.randn(32, 8))
    >>> x, u = torch.randn(5, 8), torch.randn(8)
    >>> layer(x).shape, layer.interaction_matrix(u).shape
    (torch.Size([5, 8]), torch.Size([8, 8]))
    >>> torch.allclose(layer(x) @ u, ((x @ layer.interaction_matrix(u)) * x).sum(-1), atol=1e-3)
    True
    """

    W_gate: Float[Tensor, "*batch d_in d_mlp"]
    W_in: Float[Tensor, "*batch d_in d_mlp"]
    W_out: Float[Tensor, "*batch d_mlp d_out"]
    constant: bool = False

    def _told(self) -> dict[str, Any]:
        batch = {"batch": tuple(self.batch_shape)} if self.batch_shape else {}
        sizes = {"d_in": self.d_in, "d_mlp": self.d_mlp, "d_out": self.d_out, "constant": self.constant}
        return batch | sizes | {"dtype": Words(str(self.dtype)), "device": Words(str(self.device))}

    def __post_init__(self):
        factors = {"W_gate": self.W_gate, "W_in": self.W_in, "W_out": self.W_out}
        for name, factor in factors.items():
            require_floating(factor, name)
        if len({(factor.dtype, factor.device) for factor in factors.values()}) > 1:
            kinds = ", ".join(f"{name} {each.dtype} on {each.device}" for name, each in factors.items())
            raise InputError(
                f"factors of a bilinear tensor: {kinds}; expected one precision and device, convert with .to"
            )
        gate, up, out = self.W_gate.shape, self.W_in.shape, self.W_out.shape
        if len(gate) < 2 or gate != up or out[:-1] != (*gate[:-2], gate[-1]):
            raise InputError(
                f"factors of a bilinear tensor: W_gate {list(gate)}, W_in {list(up)}, W_out {list(out)}; "
                "expected [*batch, d_in, d_mlp] twice and [*batch, d_mlp, d_out]"
            )

    @classmethod
    def from_layer(
        cls,
        W_gate: Float[Tensor, "*batch d_in d_mlp"],
        W_in: Float[Tensor, "*batch d_in d_mlp"],
        W_out: Float[Tensor, "*batch d_mlp d_out"],
        b_gate: Float[Tensor, "*batch d_mlp"] | None = None,
        b_in: Float[Tensor, "*batch d_mlp"] | None = None,
        b_out: Float[Tensor, "*batch d_out"] | None = None,
    ) -> BilinearTensor:
        """The tensor of `((x W_gate + b_gate) ∘ (x W_in + b_in)) W_out + b_out`.

        With any bias the result has the constant coordinate, and for `b_out` one hidden unit more.
        """
        if b_gate is None and b_in is None and b_out is None:
            return cls(W_gate, W_in, W_out)
        zeros = W_gate.new_zeros(W_gate.shape[:-2] + W_gate.shape[-1:])
        W_gate = torch.cat([W_gate, (zeros if b_gate is None else b_gate).unsqueeze(-2)], dim=-2)
        W_in = torch.cat([W_in, (zeros if b_in is None else b_in).unsqueeze(-2)], dim=-2)
        if b_out is not None:
            unit = W_gate.new_zeros((*W_gate.shape[:-1], 1))
            unit[..., -1, 0] = 1.0
            W_gate, W_in = torch.cat([W_gate, unit], dim=-1), torch.cat([W_in, unit], dim=-1)
            W_out = torch.cat([W_out, b_out.unsqueeze(-2)], dim=-2)
        return cls(W_gate, W_in, W_out, constant=True)

    @property
    def d_in(self) -> int:
        """Width of an input, the constant coordinate counted."""
        return self.W_gate.shape[-2]

    @property
    def d_mlp(self) -> int:
        """Number of hidden units."""
        return self.W_gate.shape[-1]

    @property
    def d_out(self) -> int:
        """Width of an output."""
        return self.W_out.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        """The leading axes of the factors; empty for one layer."""
        return self.W_gate.shape[:-2]

    @property
    def device(self) -> torch.device:
        """The device of the factors."""
        return self.W_gate.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the factors, and of everything computed from them."""
        return self.W_gate.dtype

    def to(self, *args: Any, **kwargs: Any) -> BilinearTensor:
        """The same tensor on another device or in another precision; arguments as for `torch.Tensor.to`."""
        factors = ("W_gate", "W_in", "W_out")
        return replace(self, **{name: getattr(self, name).to(*args, **kwargs) for name in factors})

    def __call__(
        self, x: Float[Tensor, "*x_axes x_in"], y: Float[Tensor, "*y_axes y_in"] | None = None
    ) -> Float[Tensor, "*axes d_out"]:
        """B(x, y) [..., d_out] of points x, y [..., d_in]; B(x, x), the layer itself, without y.

        The free axes of x and y broadcast.
        """
        x = self._vector(x, "x", self.d_in, fill=1.0)
        if y is None:
            return self._in_pieces(self._layer, x)
        return self._in_pieces(self._symmetrised, x, self._vector(y, "y", self.d_in, fill=1.0))

    def interaction_matrix(self, u: Float[Tensor, "*axes d_out"]) -> Float[Tensor, "*axes d_in d_in"]:
        """Q_u [..., d_in, d_in], symmetric, with u · B(x, y) = x Q_u y, for output directions u [..., d_out].

        Q_u = Σ_h (W_out u)_h · ½ (w_h v_hᵀ + v_h w_hᵀ), w_h and v_h the columns of W_gate and W_in
        (arXiv 2410.08417, section 2). Raises InputError where the precision cannot hold it.
        """
        u = self._vector(u, "u", self.d_out)
        if self.batch_shape:
            return self._stack(
                [
                    layer.interaction_matrix(row)
                    for layer, row in zip(self.layers(), self._rows(u), strict=True)
                ]
            )
        matrices, power = self.scaled_interaction_matrix(u)
        if power is None:
            return matrices
        names, axes = ("interaction matrices", "output directions"), (-2, -1)
        return in_precision(matrices, power[..., None, None], self.dtype, *names, axes)

    def scaled_interaction_matrix(
        self, u: Float[Tensor, "*axes d_out"]
    ) -> tuple[Float[Tensor, "*axes d_in d_in"], Int[Tensor, "*axes"] | None]:
        """Q_u / 2^e of one layer, and e [...] for each u; None where numbers are of ordinary size and e is 0.

        For directions and weights of any size: the largest entry is ½ to 1, or 0.
        """
        return interaction_matrices(self, self._vector(u, "u", self.d_out))

    def balanced(self) -> tuple[BilinearTensor, int]:
        """2^-e times one layer, and e, with factors whose products do not leave the range of the precision.

        Factors of ordinary size stay as they are, and e is 0 (see `bilinear_lm.numerics.rescaling.balanced`).
        Raises InputError for weights that are not finite.
        """
        own = self.W_gate, self.W_in, self.W_out
        factors, power = balanced(*own)
        same = all(one is other for one, other in zip(factors, own, strict=True))
        return (self if same else BilinearTensor(*factors, constant=self.constant)), power

    def matvec(
        self, u: Float[Tensor, "*u_axes d_out"], v: Float[Tensor, "*v_axes v_in"]
    ) -> Float[Tensor, "*axes d_in"]:
        """Q_u v [..., d_in] without Q_u, for output directions u [..., d_out], directions v [..., d_in].

        The free axes of u and v broadcast.
        """
        u = self._vector(u, "u", self.d_out)
        return self._in_pieces(self._matvec, u, self._vector(v, "v", self.d_in, fill=0.0))

    def pairwise(
        self,
        u: Float[Tensor, "*axes d_out"],
        left: Float[Tensor, "*batch n left_in"],
        right: Float[Tensor, "*batch m right_in"] | None = None,
    ) -> Float[Tensor, "*axes n m"]:
        """u · B(l_i, r_j) [..., n, m] for all pairs of input directions left [n, d_in], right [m, d_in].

        `right` is `left` by default. Contracted two factors at a time, in the order with the fewest
        multiplications: through the hidden units, through Q_u, or through Q_u r.
        """
        u = self._vector(u, "u", self.d_out)
        left = self._vector(left, "left", self.d_in, fill=0.0)
        right = left if right is None else self._vector(right, "right", self.d_in, fill=0.0)
        if self.batch_shape:
            parts = zip(self.layers(), *map(self._rows, (u, left, right)), strict=True)
            return self._stack([layer.pairwise(*vectors) for layer, *vectors in parts])
        result = pairwise(self, u.reshape(-1, self.d_out), left, right)
        return result.reshape(*u.shape[:-1], len(left), len(right))

    def change_basis(
        self,
        inputs: Float[Tensor, "*in_batch n_in in_width"] | None = None,
        outputs: Float[Tensor, "*out_batch n_out d_out"] | None = None,
    ) -> BilinearTensor:
        """The tensor in the coordinates of features: B̃_abc = Σ outputs_ai B_ijk inputs_bj inputs_ck.

        Rows are features: inputs [n_in, d_in] are what a feature adds to the input (a dictionary's decoder),
        outputs [n_out, d_out] are the directions along which the output is read (its encoder, transposed).
        The constant coordinate stays the last one, and `inputs` leave it out.
        """
        expected = (("inputs", inputs, self.d_in - self.constant), ("outputs", outputs, self.d_out))
        for name, features, width in expected:
            if features is not None:
                self.require_alike(features, name)
                _require_width(features, name, width)
        return change_basis(self, inputs, outputs)

    def inner(self, other: BilinearTensor) -> Float[Tensor, "*batch"]:
        """Σ_ijk B_ijk C_ijk of the two symmetrised tensors, by Gram matrices of their hidden units."""
        return inner(self, other)

    def norm(self) -> Float[Tensor, "*batch"]:
        """Frobenius norm of the symmetrised tensor."""
        return norm(self)

    def cosine(self, other: BilinearTensor) -> Float[Tensor, "*batch"]:
        """Cosine similarity of the two symmetrised tensors, in [-1, 1] to rounding; 0 where one is 0."""
        return cosine(self, other)

    def dense(self, max_bytes: int = 2**30) -> Float[Tensor, "*batch d_out d_in d_in"]:
        """The symmetrised tensor itself, B_ijk [..., d_out, d_in, d_in]; refused beyond `max_bytes`."""
        needed = math.prod(self.batch_shape) * self.d_out * self.d_in**2 * self.dtype.itemsize
        if needed > max_bytes:
            raise InputError(
                f"the dense tensor needs {needed:,} bytes, more than max_bytes={max_bytes:,}; "
                "work on the factors, or raise max_bytes"
            )
        directions = torch.eye(self.d_out, device=self.device, dtype=self.dtype)
        return self.interaction_matrix(directions.expand(*self.batch_shape, -1, -1))

    def require_alike(self, x: Tensor, name: str) -> None:
        """Raises InputError unless x is floating point, in the precision of the tensor."""
        require_floating(x, name)
        if x.dtype != self.dtype:
            raise InputError(
                f"{name} is in {x.dtype}, the tensor in {self.dtype}; expected one precision, convert with "
                ".to"
            )

    # Pieces: each of these computes one contraction for vectors that are already checked.

    def _layer(self, x: Tensor) -> Tensor:
        return self._times(self._times(x, self.W_gate) * self._times(x, self.W_in), self.W_out)

    def _symmetrised(self, x: Tensor, y: Tensor) -> Tensor:
        hidden = self._times(x, self.W_gate) * self._times(y, self.W_in)
        hidden = hidden + self._times(y, self.W_gate) * self._times(x, self.W_in)
        return self._times(hidden / 2, self.W_out)

    def _matvec(self, u: Tensor, v: Tensor) -> Tensor:
        scale = self._times(u, self.W_out.mT) / 2
        by_gate = self._times(self._times(v, self.W_in) * scale, self.W_gate.mT)
        return by_gate + self._times(self._times(v, self.W_gate) * scale, self.W_in.mT)

    # Axes: batches of layers, free axes of vectors, and pieces that fit the memory.

    def _times(self, x: Tensor, matrix: Tensor) -> Tensor:
        """x [*batch, *free, a] times matrix [*batch, a, b]."""
        if not self.batch_shape:
            return x @ matrix
        rows = x.reshape(*self.batch_shape, -1, x.shape[-1]) @ matrix
        return rows.reshape(*x.shape[:-1], matrix.shape[-1])

    def _in_pieces(self, compute: Callable[..., Tensor], *vectors: Tensor) -> Tensor:
        """compute(*vectors), halved along the longest free axis until a piece's hidden layer fits."""
        n_batch, most = len(self.batch_shape), max(vector.ndim for vector in vectors)
        aligned = [vector[(slice(None),) * n_batch + (None,) * (most - vector.ndim)] for vector in vectors]
        free = torch.broadcast_shapes(*(vector.shape[n_batch:-1] for vector in aligned))
        if math.prod(free) <= max(1, self.at_once(math.prod(self.batch_shape) * self.d_mlp)):
            return compute(*aligned)
        axis = max(range(len(free)), key=free.__getitem__)
        half, size, axis = free[axis] // 2, free[axis], axis + n_batch
        parts = (
            [v if v.shape[axis] == 1 else v.narrow(axis, start, length) for v in aligned]
            for start, length in ((0, half), (half, size - half))
        )
        return torch.cat([self._in_pieces(compute, *part) for part in parts], dim=axis)

    def at_once(self, numbers_each: int) -> int:
        """The number of pieces, of `numbers_each` numbers, that fit a chunk of memory; at least one."""
        return rows_at_once(numbers_each * self.dtype.itemsize)

    def _vector(self, x: Tensor, name: str, width: int, fill: float | None = None) -> Tensor:
        """x, checked to be [*batch, ..., width]; a missing constant coordinate is filled in."""
        self.require_alike(x, name)
        if not x.ndim:
            _require_width(x, name, width)
        if fill is not None and self.constant and x.shape[-1] == width - 1:
            x = torch.nn.functional.pad(x, (0, 1), value=fill)
        _require_width(x, name, width)
        n_batch = len(self.batch_shape)
        if x.shape[:n_batch] != self.batch_shape or x.ndim <= n_batch:
            raise InputError(
                f"{name}: got shape {list(x.shape)}; expected the batch axes {list(self.batch_shape)} of the "
                "tensor first"
            )
        return x

    def layers(self) -> list[BilinearTensor]:
        """The layers of a batch, in row-major order; one layer by itself."""
        if not self.batch_shape:
            return [self]
        factors = zip(*map(self._rows, (self.W_gate, self.W_in, self.W_out)), strict=True)
        return [BilinearTensor(W_gate, W_in, W_out, self.constant) for W_gate, W_in, W_out in factors]

    def _rows(self, x: Tensor) -> list[Tensor]:
        """The entries of x [*batch, ...] over the batch axes, in row-major order."""
        return list(x.flatten(0, len(self.batch_shape) - 1))

    def _stack(self, results: list[Tensor]) -> Tensor:
        """The inverse of `_rows`."""
        return torch.stack(results).unflatten(0, self.batch_shape)


def _require_width(x: Tensor, name: str, width: int) -> None:
    if x.ndim == 0 or x.shape[-1] != width:
        raise InputError(f"{name}: got shape {list(x.shape)}; expected a last axis of {width}")
