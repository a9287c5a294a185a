"""The output of a bilinear MLP, split into contributions of pairs of its input's parts.

The input is a sum of components, x = Σ_i a_i, over the scale s of the norm in front. With s held at its
measured value the output along a direction u is a polynomial of the components,

    u · B(x/s, x/s) = Σ_ij u · B(a_i, a_j) / s² + Σ_i 2 u · B(a_i, e) / s + u · B(e, e),

e the constant input that carries biases. The kind of an interaction follows from the parts a_i and a_j:
of embeddings alone direct–direct, with one head direct–virtual, of two heads virtual–virtual (arXiv
2305.03452, path expansion).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor


@shown
@dataclass(frozen=True)
class PathExpansion:
    """u · MLP(x) at each position as a polynomial of the components; all terms together are the output."""

    quadratic: Float[Tensor, "*axes pos n_components n_components"]
    """u · B(a_i, a_j) / s², symmetric: an interaction of two components i ≠ j is there twice, see `pairs`."""
    linear: Float[Tensor, "*axes pos n_components"]
    """2 u · B(a_i, e) / s: terms of a component with the biases of the gate and of the in projection."""
    constant: Float[Tensor, "*axes pos"]
    """u · B(e, e): the term of biases alone."""

    @property
    def total(self) -> Float[Tensor, "*axes pos"]:
        """u · MLP(x), the sum of all terms."""
        return self.quadratic.sum(dim=(-2, -1)) + self.linear.sum(dim=-1) + self.constant

    @property
    def pairs(self) -> Float[Tensor, "*axes pos n_components n_components"]:
        """Each interaction once: Q_ii on the diagonal, 2 Q_ij above it, zero below."""
        return self.quadratic.triu() + self.quadratic.triu(1)

    def grouped(self, groups: Int[Tensor, " n_components"]) -> PathExpansion:
        """The same with components of a group taken together; a number from 0 says which group each is in.

        >>> expansion.grouped(torch.tensor([0, 1, 1, 1])).quadratic.shape  # doctest: +SKIP
        torch.Size([16, 2, 2])
        """
        if groups.shape != self.linear.shape[-1:] or int(groups.min()) < 0:
            raise InputError(
                f"groups of components: got shape {list(groups.shape)}; expected one number from 0 on for "
                f"each of the {self.linear.shape[-1]} components"
            )
        members = torch.nn.functional.one_hot(groups).to(self.linear)
        return PathExpansion(members.T @ self.quadratic @ members, self.linear @ members, self.constant)

    def divided(self, scale: Float[Tensor, "*axes pos"]) -> PathExpansion:
        """All terms divided by one number a position, such as the scale of the norm that reads the output."""
        return PathExpansion(
            self.quadratic / scale[..., None, None], self.linear / scale[..., None], self.constant / scale
        )


@checked
def expand_mlp(
    tensor: BilinearTensor,
    components: Float[Tensor, "n_components pos d_model"],
    scale: Float[Tensor, " positions"],
    u: Float[Tensor, "*axes d_out"],
) -> PathExpansion:
    """The path expansion of an MLP's output along directions u, with the scale of its norm held.

    `tensor` is that of `mlp_tensor`, with the norm's weight folded in; `components` sum to the residual
    stream before the norm and `scale` is what it divides by (`Measured.before_mlp`,
    `MeasuredLayer.ln2_scale`).

    >>> measured, tensor = measure(model, ids), mlp_tensor(model, 0)  # doctest: +SKIP
    >>> components, scale = measured.before_mlp(0).values, measured.layers[0].ln2_scale  # doctest: +SKIP
    >>> expansion = expand_mlp(tensor, components, scale, u)  # doctest: +SKIP
    >>> torch.allclose(expansion.total, measured.layers[0].mlp_out @ u, atol=1e-4)  # doctest: +SKIP
    True
    """
    _require_fit(tensor, components, scale, u)
    width, (n, n_pos, _) = tensor.d_in - tensor.constant, components.shape
    hidden = u.reshape(-1, tensor.d_out) @ tensor.W_out.T
    quadratic = hidden.new_empty(len(hidden), n_pos, n, n)
    linear = hidden.new_zeros(len(hidden), n_pos, n)
    e_gate, e_in = (factor[width:].sum(dim=0) for factor in (tensor.W_gate, tensor.W_in))
    chunk = rows_at_once(3 * n * tensor.d_mlp * tensor.dtype.itemsize)
    for start in range(0, n_pos, chunk):
        part = slice(start, start + chunk)
        parts = (components[:, part] / scale[part, None]).transpose(0, 1)
        gate, up = parts @ tensor.W_gate[:width], parts @ tensor.W_in[:width]
        for k, row in enumerate(hidden):
            half = (gate * row) @ up.mT
            quadratic[k, part] = (half + half.mT) / 2
            if tensor.constant:
                linear[k, part] = gate @ (row * e_in) + up @ (row * e_gate)
    axes = u.shape[:-1]
    return PathExpansion(
        quadratic.reshape(*axes, n_pos, n, n),
        linear.reshape(*axes, n_pos, n),
        (hidden @ (e_gate * e_in)).unsqueeze(-1).expand(-1, n_pos).reshape(*axes, n_pos),
    )


def _require_fit(tensor: BilinearTensor, components: Tensor, scale: Tensor, u: Tensor) -> None:
    if tensor.batch_shape:
        raise InputError("a path expansion takes one tensor; give the layers of a batch one by one")
    width = tensor.d_in - tensor.constant
    if components.shape[-1] != width or not len(components):
        raise InputError(
            f"components of a path expansion: got {list(components.shape)}; expected one or more of width "
            f"{width}"
        )
    if u.shape[-1] != tensor.d_out:
        raise InputError(
            f"output directions of a path expansion: got {list(u.shape)}; expected a last axis "
            f"of {tensor.d_out}"
        )
    if scale.shape != components.shape[1:2]:
        raise InputError(
            f"scale of a path expansion: got {list(scale.shape)}; expected one number for each of the "
            f"{components.shape[1]} positions"
        )
