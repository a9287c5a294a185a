"""Hops of a model of two layers: which inputs a first-layer gate reads, which gate it is, from the weights.

Hidden units can be permuted, scaled and mixed between layers without any change of what a model computes, so
that no single unit need be a gate. Fixed is the polynomial of the composition, Σ_S c_S Π_S x_i on boolean
inputs (`analysis.toys.multilinear`). It goes through a gate g of x_i and x_j alone, f = A + g(x_i, x_j) B
with A and B polynomials of the other inputs, exactly when the coefficients, as a matrix of the subsets {j},
{i}, {i, j} against the subsets of the other inputs, have rank one; g is then the left factor. (The simple
disjoint decomposition of Ashenhurst 1957, for real numbers.)

Identified are the pairs and, up to its complement, each gate: g and NOT g with another output gate are one
function, and the one with g(0, 0) = 0 stands for both. Not identified is what the function does not fix:
where the same function can be grouped in two ways, such as the AND of four inputs or their parity, pairs
overlap, and `Hops.identified` is False. Nor does the function fix where in the layers a gate is computed:
with x² = x the second layer can make up for much that the first leaves open. `share_in_span` of
`second_layer_signals` measures how far a gate is there, linearly, in what the second layer reads.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.spectra.eigen import eigendecompose
from analysis.toys.gates import NamedGate, nearest_gate
from analysis.toys.multilinear import (
    coefficients_of,
    composed_polynomials,
    corner_values,
    layer_polynomials,
)
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_index, require_number
from bilinear_lm.errors import InputError
from bilinear_lm.networks.gates import boolean_inputs
from bilinear_lm.shown import Words, shown
from bilinear_lm.tensor import BilinearTensor

TOLERANCE = 0.1
"""By default: second singular value over the first, and distance of a gate's values from 0 and 1."""

_OF_ONE_INPUT = ("FALSE", "A", "B", "TRUE")


@shown
@dataclass(frozen=True)
class Hop:
    """A gate of two inputs that a function goes through."""

    inputs: tuple[int, int]
    """The inputs A and B that it reads."""
    gate: str
    """Its name, or that of its complement: the one that is 0 where both inputs are."""
    table: Float[Tensor, " corners"]
    error: float
    """The second singular value over the first: 0 where the function goes through the gate exactly."""


@shown
@dataclass(frozen=True)
class Hops:
    """Gates of two inputs that a function goes through, and the gate that joins them."""

    hops: tuple[Hop, ...]
    output: NamedGate | None
    """The gate of two hops that share no input, the first hop its A; None where there are others."""

    @property
    def identified(self) -> bool:
        """Whether these are two hops that share no input, and the output is a gate of them."""
        return self.output is not None and self.output.name is not None

    def _first(self) -> dict[str, Any]:
        texts = [f"{hop.gate} of {hop.inputs[0]}, {hop.inputs[1]}" for hop in self.hops]
        return {"hops": Words("; ".join(texts)), "output": self.output and self.output.name}


@checked
def find_hops(
    first: BilinearTensor, second: BilinearTensor, output: int = 0, tolerance: float = TOLERANCE
) -> Hops:
    """The hops of an output of two layers, from their weights: first reads the inputs, second gives outputs.

    >>> model = ToyModel(ToySettings(n_inputs=4, n_layers=2))
    >>> find_hops(*model.folded()).identified  # untrained
    False

    InputError for a batch of layers, layers that do not follow each other, an output that does not exist, and
    a tolerance that is not between 0 and ½.
    """
    if first.batch_shape or second.batch_shape:
        raise InputError("find_hops takes single layers; give the layers of a batch one by one")
    polynomials = composed_polynomials([first, second])
    require_index(output, len(polynomials), "output")
    return hops_of(polynomials[output], tolerance)


@checked
def hops_of(polynomial: Float[Tensor, " corners"], tolerance: float = TOLERANCE) -> Hops:
    """The hops of a function on boolean inputs, by the coefficients of its polynomial.

    >>> x = boolean_inputs(4)
    >>> xor = (x[:, 0] - x[:, 1]).abs()
    >>> hops_of(coefficients_of(xor * x[:, 2] * x[:, 3])).output.name
    'AND'
    """
    require_number(tolerance, f"tolerance {tolerance}", "0 to below 0.5", least=0, most=0.4999)
    n = polynomial.shape[-1].bit_length() - 1
    corner_values(polynomial)  # raises InputError for another length
    pairs = itertools.combinations(range(n), 2)
    hops = tuple(hop for pair in pairs if (hop := _hop(polynomial, pair, tolerance)))
    if len(hops) != 2 or {*hops[0].inputs} & {*hops[1].inputs}:
        return Hops(hops, None)
    return Hops(hops, _joining_gate(polynomial, hops, tolerance))


def _hop(polynomial: Tensor, pair: tuple[int, int], tolerance: float) -> Hop | None:
    """The gate of a pair of inputs that a function goes through, or None."""
    n = polynomial.shape[-1].bit_length() - 1
    axes = polynomial.reshape([2] * n).movedim(pair, (0, 1)).reshape(4, -1)
    left, sizes, _ = torch.linalg.svd(axes[1:], full_matrices=False)  # {j}, {i}, {i, j}
    if sizes[0] <= tolerance * polynomial.norm() / 4:  # the function does not read the pair
        return None
    error = float(sizes[1] / sizes[0]) if len(sizes) > 1 else 0.0
    values = corner_values(torch.cat([left.new_zeros(1), left[:, 0]]))
    gate = nearest_gate(values / values[values.abs().argmax()], tolerance)
    if error > tolerance or gate.name is None or gate.name in _OF_ONE_INPUT:
        return None
    return Hop(pair, gate.name, gate.table, error)


def _joining_gate(polynomial: Tensor, hops: tuple[Hop, ...], tolerance: float) -> NamedGate | None:
    """The gate G with f = G(g, g'), by the mean of f where g and g' have each pair of values."""
    n = polynomial.shape[-1].bit_length() - 1
    values, (first, second) = corner_values(polynomial), (gate_values(hop, n) for hop in hops)
    which = (2 * first + second).long()
    means = torch.stack([values[which == case].mean() for case in range(4)])
    gate = nearest_gate(means, tolerance)
    rest = float((values - means[which]).abs().max())
    return gate if max(rest, gate.error) <= tolerance else NamedGate(None, gate.table, max(rest, gate.error))


def gate_values(hop: Hop, n: int) -> Float[Tensor, " corners"]:
    """The values of a hop's gate on all boolean inputs of n."""
    x = boolean_inputs(n).to(hop.table.device).long()
    return hop.table[2 * x[:, hop.inputs[0]] + x[:, hop.inputs[1]]]


@checked
def second_layer_signals(
    first: BilinearTensor, second: BilinearTensor, output: int = 0, threshold: float = 1e-3
) -> Float[Tensor, "signals corners"]:
    """The quadratic forms of the inputs that the second layer squares, on all boolean inputs.

    With eigenvectors v_k and eigenvalues λ_k of the second layer's interaction matrix, an output is Σ_k λ_k
    s_k², s_k = v_k · (h, 1) with h the first layer's output: eigenvectors that are pulled back through the
    first layer. Those whose largest |λ_k| s_k² is below `threshold` of the largest are left out. They do not
    depend on how hidden units of either layer are ordered or scaled.
    """
    require_number(threshold, f"threshold {threshold}", "0 to 1", least=0, most=1)
    polynomials = layer_polynomials(first)
    require_index(output, second.d_out, "output")
    u = torch.nn.functional.one_hot(torch.tensor(output), second.d_out).to(second.W_out)
    eigen = eigendecompose(second, u)
    if second.constant:
        one = torch.zeros_like(polynomials[:1])
        one[:, 0] = 1.0
        polynomials = torch.cat([polynomials, one])
    signals = corner_values(eigen.vectors @ polynomials)
    sizes = (eigen.values.abs()[:, None] * signals.square()).amax(-1)
    return signals[sizes > threshold * sizes.max()]


@checked
def share_in_span(
    values: Float[Tensor, "n corners"], signals: Float[Tensor, "signals corners"]
) -> Float[Tensor, " n"]:
    """The share of each row's variance over all inputs that a linear combination of the signals has.

    1 says that a gate is there, linearly, in what the second layer reads; 0 also for a row without variance.
    """
    if values.shape[-1] != signals.shape[-1]:
        raise InputError(
            f"values on {values.shape[-1]} inputs and signals on {signals.shape[-1]}; expected the same"
        )
    coefficients_of(values)  # raises InputError for what is not on boolean inputs
    centred, basis = values - values.mean(-1, keepdim=True), signals - signals.mean(-1, keepdim=True)
    _, sizes, rows = torch.linalg.svd(basis, full_matrices=False)
    rows = rows[sizes > 1e-6 * sizes.max()]
    total = centred.square().sum(-1)
    kept = (centred @ rows.mT).square().sum(-1)
    return torch.where(total > 0, kept / total.clamp(min=torch.finfo(total.dtype).tiny), total)
