"""Exact rescaling by powers of two, so that squares and products of numbers stay within their precision.

In float32 a square is infinite from 1.8e19 on and 0 below 1e-23, and products of three weights leave the
range far sooner. Multiplication by a power of two changes no digit: what is computed from rescaled numbers is
the same to the last bit, times a power of two, as long as nothing leaves the range. So numbers are rescaled
where their size is not ordinary, and results are put back at the end, or refused where no number of their
precision is as large or as small.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilinear_lm.errors import InputError

ROOM = {
    dtype: -math.frexp(torch.finfo(dtype).tiny)[1] // 10
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}
"""Products of six numbers below 2^ROOM, and long sums of them, stay within the range of a precision."""

Dims = int | tuple[int, ...]

Powers = int | Int[Tensor, "*#axes"]


def sizes(x: Float[Tensor, "*axes"], dim: Dims, keepdim: bool = False) -> Float[Tensor, "*rest"]:
    """The largest |x| along axes, NaN where there is one; twice as fast as `x.abs().amax(dim)`."""
    x = x.detach()
    return torch.maximum(x.amax(dim, keepdim), -x.amin(dim, keepdim))


def exponents(x: Float[Tensor, "*axes"], dim: Dims, keepdim: bool = False) -> Int[Tensor, "*rest"]:
    """The least whole numbers e with |x| < 2^e along axes, 0 where x is 0; x is finite."""
    return torch.frexp(sizes(x, dim, keepdim).double()).exponent


def exponent(x: Float[Tensor, "*axes"]) -> int:
    """The least whole number e with |x| < 2^e for all of x, 0 where x is 0 or empty; x is finite."""
    return int(exponents(x.flatten(), 0)) if x.numel() else 0


def unordinary_exponent(x: Float[Tensor, "*axes"]) -> int:
    """`exponent`, but 0 for numbers of ordinary size: products of ten of them stay within the range."""
    power = exponent(x)
    return 0 if abs(power) <= ROOM[x.dtype] else power


def times_two_to(x: Float[Tensor, "*axes"], power: Powers) -> Float[Tensor, "*axes"]:
    """x · 2^power, exact where the result is within the range of x's precision."""
    most = {torch.float16: 14, torch.float64: 1000}.get(x.dtype, 120)
    if isinstance(power, int):
        while power:
            step = max(-most, min(most, power))
            x, power = x * 2.0**step, power - step
        return x
    power = power.long()
    while power.any():
        steps = power.clamp(-most, most)
        # These are the bits of the float64 number 2^step.
        x, power = x * ((steps + 1023) << 52).view(torch.float64).to(x.dtype), power - steps
    return x


def in_precision(
    x: Float[Tensor, "*axes"],
    power: Powers,
    dtype: torch.dtype,
    what: str,
    scaled: str = "weights",
    dim: Dims | None = None,
) -> Float[Tensor, "*axes"]:
    """x · 2^power in a precision; x is finite.

    Raises InputError where the largest number of it, or the largest along axes `dim`, is beyond the range of
    the precision: "`what` overflow …; scale the `scaled` down".
    """
    result = times_two_to(x, power).to(dtype)
    if not x.numel():
        return result
    dim = tuple(range(x.ndim)) if dim is None else dim
    largest = sizes(result, dim)[sizes(x, dim) > 0]
    info = torch.finfo(dtype)
    if (largest > info.max).any():
        raise _beyond(dtype, f"{what} overflow", "finite ones", f"scale the {scaled} down")
    if (largest < info.tiny).any():
        raise _beyond(dtype, f"{what} underflow", "larger ones", f"scale the {scaled} up")
    return result


def require_holds(dtype: torch.dtype, part: Float[Tensor, "*axes"], name: str, beside: float) -> None:
    """Raises InputError unless a precision can hold one term of a sum.

    A term that is lost in the rounding of another one, of the size `beside`, need not be held.
    """
    info, largest = torch.finfo(dtype), float(part.detach().abs().max()) if part.numel() else 0.0
    if not largest <= info.max:
        raise _beyond(dtype, f"{name} overflows", "finite numbers", "scale the weights down")
    if info.eps * beside < largest < info.tiny:
        raise _beyond(dtype, f"{name} underflows", "larger numbers", "scale the weights up")


def _beyond(dtype: torch.dtype, problem: str, expected: str, remedy: str) -> InputError:
    wider = ", or compute in float64" if dtype != torch.float64 else ""
    return InputError(f"{problem} {dtype}; expected {expected}: {remedy}{wider}")


def are_ordinary(largest: Float[Tensor, "*axes"]) -> bool:
    """Whether sizes are so far from 0 and from the end of the range that their squares stay within it."""
    power = -math.frexp(torch.finfo(largest.dtype).tiny)[1] // 2
    return bool(((largest >= 2.0**-power) & (largest <= 2.0**power)).all())


def norms(x: Float[Tensor, "*axes"], dim: int) -> Float[Tensor, "*rest"]:
    """Euclidean norms along an axis, right wherever the precision can hold them."""
    plain = torch.linalg.vector_norm(x, dim=dim)
    if are_ordinary(plain):
        return plain
    power = exponents(x, dim, keepdim=True)
    return times_two_to(torch.linalg.vector_norm(times_two_to(x, -power), dim=dim), power.squeeze(dim))


def unit_vectors(x: Float[Tensor, "*axes"], dim: int) -> Float[Tensor, "*axes"]:
    """x with vectors of length 1 along an axis; vectors of zeros stay as they are."""
    return torch.nn.functional.normalize(times_two_to(x, -exponents(x, dim, keepdim=True)), dim=dim)


def balanced(
    W_gate: Float[Tensor, "d_in d_mlp"],
    W_in: Float[Tensor, "d_in d_mlp"],
    W_out: Float[Tensor, "d_mlp d_out"],
) -> tuple[tuple[Tensor, Tensor, Tensor], int]:
    """The factors of 2^-power times the same bilinear layer, with products far from the ends of the range.

    Factors of ordinary size are returned as they are, with power 0. In others the columns of W_gate and W_in
    and the whole of W_out are scaled to a largest number of ½ to 1; a hidden unit's part of W_out makes up
    for its columns. Raises InputError for weights that are not finite.
    """
    if not W_gate.numel() or not W_out.numel():
        return (W_gate, W_in, W_out), 0
    largest = [sizes(W_gate, 0).double(), sizes(W_in, 0).double(), sizes(W_out, 1).double()]  # [d_mlp]
    for name, size in zip(("W_gate", "W_in", "W_out"), largest, strict=True):
        if not torch.isfinite(size).all():
            raise InputError(f"{name} holds NaN or infinity; expected finite numbers")
    if all(_leave_room(size, W_gate.dtype) for size in largest):
        return (W_gate, W_in, W_out), 0
    gate_power, in_power, out_power = (torch.frexp(size).exponent for size in largest)
    live = torch.stack(largest).amin(0) > 0
    total = gate_power + in_power + out_power
    power = int(total[live].max()) if live.any() else 0
    # Where a factor of a unit is 0, so is the unit, whatever the other two are.
    rest = torch.where(live, gate_power + in_power - power, -out_power)
    return (
        times_two_to(W_gate, -gate_power),
        times_two_to(W_in, -in_power),
        times_two_to(W_out, rest.unsqueeze(1)),
    ), power


def spread(factors: list[Tensor], powers: list[int], dtype: torch.dtype) -> list[Tensor]:
    """Factors times 2^power each, in a precision.

    Where it cannot hold one, the same product in factors of equal sizes; raises InputError where it cannot
    hold these either.
    """
    most = -math.frexp(torch.finfo(dtype).tiny)[1]
    own = [exponent(factor) for factor in factors]
    wanted = [size + power for size, power in zip(own, powers, strict=True)]
    if max(map(abs, wanted)) > most and all(bool(factor.any()) for factor in factors):
        share, rest = divmod(sum(wanted), len(factors))
        powers = [share + (index < rest) - size for index, size in enumerate(own)]
    pairs = zip(factors, powers, strict=True)
    return [in_precision(factor, power, dtype, "factors of a bilinear tensor") for factor, power in pairs]


def _leave_room(largest: Tensor, dtype: torch.dtype) -> bool:
    """Whether all sizes but 0 are ordinary."""
    power = ROOM[dtype]
    there = torch.where(largest > 0, largest, 1.0)
    return bool(((there >= 2.0**-power) & (there <= 2.0**power)).all())
