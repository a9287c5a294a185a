"""Multilinear polynomials of layers on boolean inputs, exact from the weights.

On {0, 1}ⁿ every function is one multilinear polynomial, Σ_S c_S Π_{i ∈ S} x_i, because x² = x. A quadratic
form gives its coefficients at once, and a composition of layers is a composition of polynomials, whatever
its degree. (O'Donnell, "Analysis of Boolean functions", section 1.2, with 0 and 1 in place of ±1.)

Subsets S are numbers whose binary digits say which inputs are in them, the first input the highest digit, so
that coefficients and truth tables of n inputs have one order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_finite_numbers
from bilinear_lm.errors import InputError
from bilinear_lm.networks.gates import MOST_INPUTS, boolean_inputs
from bilinear_lm.tensor import BilinearTensor


def corner_values(coefficients: Float[Tensor, "*axes corners"]) -> Float[Tensor, "*axes corners"]:
    """The values of multilinear polynomials on all boolean inputs: Σ of c_S over the subsets S of each."""
    return _along_inputs(coefficients, 1)


def coefficients_of(values: Float[Tensor, "*axes corners"]) -> Float[Tensor, "*axes corners"]:
    """The coefficients c_S of the multilinear polynomials with these values on all boolean inputs.

    >>> coefficients_of(torch.tensor([0.0, 1.0, 1.0, 0.0]))  # XOR is b + a − 2ab
    tensor([ 0.,  1.,  1., -2.])
    """
    return _along_inputs(values, -1)


def degrees(n: int, device: torch.device | str = "cpu") -> Tensor:
    """The degree of every coefficient of a polynomial of n inputs, [2ⁿ]: how many inputs are in S."""
    return boolean_inputs(n).sum(-1).long().to(device)


@checked
def layer_polynomials(tensor: BilinearTensor) -> Float[Tensor, "*batch d_out corners"]:
    """The multilinear polynomial of every output of a layer, [*batch, d_out, 2ⁿ], from its weights.

    With Q the interaction matrix of an output in f, b, γ (its block of the inputs, its part with the constant
    coordinate, which counts twice, and its constant): c_∅ = γ, c_i = f_ii + b_i, c_ij = f_ij + f_ji. Of f_ii
    and b_i only the sum means something on boolean inputs.

    >>> layer = BilinearTensor(torch.eye(2), torch.eye(2).flip(0), torch.tensor([[1.0], [0.0]]))
    >>> layer_polynomials(layer)  # x_0 x_1
    tensor([[0., 0., 0., 1.]])
    """
    n = tensor.d_in - tensor.constant
    if not 1 <= n <= MOST_INPUTS:
        raise InputError(f"a layer of {n} inputs on boolean inputs; expected 1 to {MOST_INPUTS}")
    Q = tensor.dense()
    result = Q.new_zeros(*Q.shape[:-2], 2**n)
    places = [2 ** (n - 1 - i) for i in range(n)]
    for i, place in enumerate(places):
        result[..., place] = Q[..., i, i]
        if tensor.constant:
            result[..., place] += 2 * Q[..., i, n]
        for j in range(i):
            result[..., place + places[j]] = 2 * Q[..., i, j]
    if tensor.constant:
        result[..., 0] = Q[..., n, n]
    return result


@checked
def composed_polynomials(tensors: Sequence[BilinearTensor]) -> Float[Tensor, "*batch d_out corners"]:
    """The multilinear polynomial [*batch, d_out, 2ⁿ] of a composition of layers, the first one first.

    The coefficients of the first layer come from its weights (`layer_polynomials`); each layer after it
    multiplies polynomials, which on boolean inputs is done value by value. Exact to rounding.
    """
    if not len(tensors):
        raise InputError("a composition of no layers; expected one or more, the first layer first")
    coefficients = layer_polynomials(tensors[0])
    for index, tensor in enumerate(tensors[1:], 1):
        width, expected = coefficients.shape[-2], tensor.d_in - tensor.constant
        if width != expected:
            raise InputError(
                f"layer {index} reads {expected} numbers and layer {index - 1} gives {width}; expected "
                "layers that follow each other"
            )
        outputs = tensor(corner_values(coefficients).mT)  # [*batch, corners, d_out]
        coefficients = coefficients_of(outputs.mT)
    return coefficients


def _along_inputs(values: Tensor, sign: int) -> Tensor:
    """Adds (or takes away), input by input, what stands at 0 of it to what stands at 1."""
    require_finite_numbers(values, "values on boolean inputs")
    n = values.shape[-1].bit_length() - 1 if values.ndim else 0
    if not values.ndim or values.shape[-1] != 2**n:
        raise InputError(f"values on boolean inputs {list(values.shape)}; expected a last axis of 2ⁿ")
    axes = values.reshape(*values.shape[:-1], *[2] * n)
    for axis in range(values.ndim - 1, values.ndim - 1 + n):
        zero, one = axes.unbind(axis)
        axes = torch.stack([zero, one + sign * zero], dim=axis)
    return axes.reshape(values.shape)
