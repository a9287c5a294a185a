"""A bilinear layer made narrower from its weights alone: CP decomposition of its tensor.

A bilinear layer is a sum of d_mlp terms, one a hidden unit:

    B = Σ_h sym(w_h ⊗ v_h) ⊗ p_h,        sym(w ⊗ v) = ½ (w vᵀ + v wᵀ).

Fewer terms that come as close as they can, in the Frobenius norm of the symmetrised tensor, are a CP
decomposition. With **tied** factors, v_h = w_h, the terms are squares (w_h · x)² p_h: one set of neurons,
each with a single input direction, that all outputs share. Every bilinear layer is a tied one of twice its
width, because 4 (w · x)(v · x) = ((w + v) · x)² − ((w − v) · x)².

All inner products follow from the factors; neither data nor the dense tensor is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_number, require_seed
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.rescaling import in_precision, norms
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor

RIDGE = 1e-13
"""Added, times the number of hidden units, to the diagonal of their Gram matrix: above its rounding, so that
units which coincide do no harm. Units have norm 0.7 to 1."""

ROUND = 20
"""L-BFGS iterations between two entries of the history."""

EXACT = 1e-5
"""A relative error at which the fit stops: the narrower layer is the layer."""


@shown
@dataclass(frozen=True)
class CPDecomposition:
    """A narrower layer, and how close its tensor is to the one it was fitted to."""

    tensor: BilinearTensor
    cosine: float
    """Cosine of the two symmetrised tensors."""
    relative_error: float
    """‖B − B'‖ / ‖B‖, resolved to about 1e-8; sqrt(1 − cosine²), as the scale is the best one."""
    history: tuple[float, ...]
    """The relative error at the start and after each round of `ROUND` iterations."""


@checked
def cp_decompose(
    tensor: BilinearTensor,
    d_mlp: int,
    *,
    tied: bool = False,
    rounds: int = 50,
    tolerance: float = 1e-4,
    restarts: int = 0,
    seed: int = 0,
    progress: bool = False,
) -> CPDecomposition:
    """The bilinear layer with `d_mlp` hidden units whose tensor is closest to this one, a local optimum.

    For given input factors the best W_out solves a linear least-squares problem; what is left depends on
    the input factors alone and is minimised by L-BFGS (variable projection, Golub and Pereyra 1973). It
    stops after `rounds` rounds, or after one that improves the error by less than `tolerance` of itself.

    The first start is from the hidden units that span the tensor best, which suits trained layers.
    `restarts` adds starts from random input factors, drawn by `seed`, and the best fit is returned: to
    recover a layer that is exactly narrower, allow a few.

    Computed in float64 on the tensor's device: O((d_mlp + d_mlp') d_mlp' d_in) time an iteration and
    O(d_mlp²) memory. The tensor comes back in the precision of the one given, W_gate and W_in with columns
    of length 1.

    >>> tensor = BilinearTensor(torch.randn(6, 8), torch.randn(6, 8), torch.randn(8, 6))
    >>> fit = cp_decompose(tensor, 4, rounds=2)
    >>> fit.tensor.d_mlp, 0 < fit.cosine < 1
    (4, True)
    """
    if tensor.batch_shape:
        raise InputError("cp_decompose takes one layer; give the layers of a batch one by one")
    for name, number in (("rounds", rounds), ("restarts", restarts)):
        require_count(number, f"{name}={number} of cp_decompose", "0 or more", least=0)
    require_number(tolerance, f"tolerance={tolerance!r} of cp_decompose", "0 or more", least=0)
    require_seed(seed)
    factors = (tensor.W_gate, tensor.W_in, tensor.W_out)
    if not all(bool(torch.isfinite(factor).all()) for factor in factors):
        raise InputError("cp_decompose: the tensor is 0 or holds NaN or infinity; expected finite weights")
    exact, power = tensor.to(torch.float64).balanced()
    units = as_squares(exact) if tied else exact
    most = units.d_mlp
    require_count(d_mlp, f"{d_mlp} hidden units", f"1 to {most}, which give the tensor exactly", most=most)
    square = float(exact.inner(exact))
    if not 0 < square < torch.inf:
        raise InputError("cp_decompose: the tensor is 0 or holds NaN or infinity; expected finite weights")
    fits: list[tuple[BilinearTensor, list[float]]] = []
    for start in _starts(units, d_mlp, tied, restarts, seed):
        fits.append(_descend(_Target(exact, square), start, rounds, tolerance, progress))
        if fits[-1][1][-1] <= EXACT:
            break
    fitted, history = min(fits, key=lambda fit: fit[1][-1])
    return CPDecomposition(
        tensor=replace(
            fitted.to(tensor.dtype),
            W_out=in_precision(fitted.W_out, power, tensor.dtype, "output weights of the narrower layer"),
        ),
        cosine=float(exact.cosine(fitted)),
        relative_error=history[-1],
        history=tuple(history),
    )


@checked
def as_squares(tensor: BilinearTensor) -> BilinearTensor:
    """The same layer with tied factors, W_gate = W_in, and twice the hidden units.

    (w · x)(v · x) = ¼ ((w + v) · x)² − ¼ ((w − v) · x)², with w and v scaled to the same length.
    """
    up_length, gate_length = (norms(factor, -2).unsqueeze(-2) for factor in (tensor.W_in, tensor.W_gate))
    lengths = up_length / gate_length
    # The quotient of very different lengths leaves the range where the quotient of roots does not.
    ratio = torch.where(
        (lengths > 1e-18) & (lengths < 1e18), lengths.sqrt(), up_length.sqrt() / gate_length.sqrt()
    )
    # A unit without one of its factors computes 0, whatever its scale.
    ratio = torch.where((up_length > 0) & (gate_length > 0), ratio, 1)
    gate, up = tensor.W_gate * ratio, tensor.W_in / ratio
    factor = torch.cat([gate + up, gate - up], dim=-1)
    W_out = torch.cat([tensor.W_out, -tensor.W_out], dim=-2) / 4
    return BilinearTensor(factor, factor, W_out, constant=tensor.constant)


Factors = tuple[Tensor, ...]
"""(W_gate, W_in), or a single matrix for both where they are tied."""


@dataclass(frozen=True)
class _Target:
    """The tensor to fit, and its squared norm."""

    tensor: BilinearTensor
    square: float

    def squared_error(self, factors: Factors) -> Tensor:
        """‖B − B'‖² / ‖B‖² with the best W_out, where ‖B − B'‖² = ‖B‖² − ⟨B, B'⟩."""
        fitted, products = self._solve(factors)
        return 1 - (fitted.W_out * products).sum() / self.square

    def fitted(self, factors: Factors) -> BilinearTensor:
        """The layer with these input factors and the best W_out."""
        return self._solve(factors)[0]

    def _solve(self, factors: Factors) -> tuple[BilinearTensor, Tensor]:
        """The layer of `fitted`, and the inner products ⟨B, sym(w_h ⊗ v_h)⟩ that its W_out solves for."""
        gate, up = normalize(factors[0], dim=0), normalize(factors[-1], dim=0)
        gram = _unit_gram(gate, up, gate, up)
        gram = gram + RIDGE * len(gram) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        products = _unit_gram(gate, up, self.tensor.W_gate, self.tensor.W_in) @ self.tensor.W_out
        W_out = torch.cholesky_solve(products, torch.linalg.cholesky(gram))
        return BilinearTensor(gate, up, W_out, constant=self.tensor.constant), products


def _descend(
    target: _Target, start: Factors, rounds: int, tolerance: float, progress: bool
) -> tuple[BilinearTensor, list[float]]:
    """The fit from one start, and its relative error there and after each round."""
    factors = tuple(factor.clone().requires_grad_() for factor in start)
    optimiser = torch.optim.LBFGS(
        factors,
        max_iter=ROUND,
        history_size=ROUND,
        tolerance_grad=EXACT**3,
        tolerance_change=EXACT**3,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        error = target.squared_error(factors)
        error.backward()
        return error

    def relative_error() -> float:
        with torch.no_grad():
            return float(target.squared_error(factors).clamp(min=0).sqrt())

    history = [relative_error()]
    for _ in tqdm(range(rounds), desc="cp", disable=not progress):
        if history[-1] <= EXACT:
            break
        optimiser.step(closure)
        history.append(relative_error())
        if history[-2] - history[-1] <= tolerance * history[-2]:
            break
    return target.fitted(tuple(factor.detach() for factor in factors)), history


def _starts(units: BilinearTensor, n: int, tied: bool, restarts: int, seed: int) -> list[Factors]:
    """Input factors to descend from; columns of length 1, so that no scale of a hidden unit matters."""
    chosen = _spanning(units, n)
    factors = (units.W_gate, units.W_in)[: 2 - tied]
    starts = [tuple(normalize(factor[:, chosen], dim=0) for factor in factors)]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(restarts):
        drawn = torch.randn(2 - tied, units.d_in, n, generator=generator, dtype=torch.float64)
        starts.append(tuple(normalize(drawn, dim=1).to(units.device)))
    return starts


def _spanning(units: BilinearTensor, n: int) -> list[int]:
    """n hidden units, each the one farthest from the span of those before (pivoted Cholesky)."""
    gram = _unit_gram(units.W_gate, units.W_in, units.W_gate, units.W_in)
    gram *= units.W_out @ units.W_out.T
    squares = gram.diagonal().clone()
    rows, chosen = gram.new_zeros(n, len(gram)), []
    for step in range(n):
        unit = int(squares.argmax())
        if squares[unit] > 0:
            rows[step] = (gram[unit] - rows[:step, unit] @ rows[:step]) / squares[unit].sqrt()
        chosen.append(unit)
        squares -= rows[step].square()
        squares[unit] = -torch.inf
    return chosen


def _unit_gram(gate: Tensor, up: Tensor, other_gate: Tensor, other_up: Tensor) -> Tensor:
    """⟨sym(w_h ⊗ v_h), sym(w'_g ⊗ v'_g)⟩ of two sets of hidden units."""
    straight = (gate.T @ other_gate) * (up.T @ other_up)
    return (straight + (gate.T @ other_up) * (up.T @ other_gate)) / 2
