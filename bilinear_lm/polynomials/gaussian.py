"""Gaussian inputs of a layer: mean and covariance, checked, and the moments of linear maps of the input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.checks import require_finite_numbers, require_floating
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown

_F64 = torch.float64


@shown
@dataclass(frozen=True)
class FactoredCovariance:
    """A covariance that is never built: rootᵀ root + diag(diagonal), of low rank, diagonal or both.

    x = z root + √diagonal ∘ e for independent standard normal z [rank] and e [d_in].

    >>> cov = FactoredCovariance(root=torch.randn(3, 512), diagonal=torch.ones(512))
    """

    root: Float[Tensor, "rank d_in"] | None = None
    diagonal: Float[Tensor, " d_in"] | None = None

    def dense(self) -> Float[Tensor, "d_in d_in"]:
        """The matrix itself."""
        parts = [] if self.diagonal is None else [self.diagonal.diag()]
        return sum(parts + ([] if self.root is None else [self.root.T @ self.root]), torch.zeros(()))

    def times(self, W: Float[Tensor, "d_in n"]) -> Float[Tensor, "d_in n"]:
        """The matrix times W."""
        low = None if self.root is None else self.root.T @ (self.root @ W)
        if self.diagonal is None:
            assert low is not None
            return low
        own = self.diagonal.unsqueeze(1) * W
        return own if low is None else own + low

    def variances(self, W: Float[Tensor, "d_in n"]) -> Float[Tensor, " n"]:
        """Var(x W) of each column: a sum of squares; 0 where rounding is all there is."""
        total = W.new_zeros(W.shape[1])
        if self.diagonal is not None:
            total = total + self.diagonal @ W.square()
        if self.root is not None:
            low, most = (self.root @ W).square().sum(0), self.root.square().sum() * W.square().sum(0)
            total = total + torch.where(low > (8 * torch.finfo(_F64).eps) ** 2 * most, low, 0.0)
        return total


@shown
@dataclass(frozen=True)
class Gaussian:
    """x ~ N(mean, cov), in float64. `cov` may be singular; None is the identity, which is never built."""

    mean: Float[Tensor, " d_in"]
    cov: Float[Tensor, "d_in d_in"] | FactoredCovariance | None

    def times_cov(self, W: Float[Tensor, "d_in n"]) -> Float[Tensor, "d_in n"]:
        """cov W."""
        if isinstance(self.cov, FactoredCovariance):
            return self.cov.times(W)
        return W if self.cov is None else self.cov @ W

    def dense_cov(self) -> Float[Tensor, "d_in d_in"]:
        """cov as a matrix."""
        if isinstance(self.cov, FactoredCovariance):
            return self.cov.dense()
        return torch.eye(len(self.mean)).to(self.mean) if self.cov is None else self.cov

    def variances(self, W: Float[Tensor, "d_in n"]) -> Float[Tensor, " n"]:
        """Var(x W), one number a column; 0 where it is within the rounding error of its sum."""
        if self.cov is None:
            return W.square().sum(0)
        if isinstance(self.cov, FactoredCovariance):
            return self.cov.variances(W)
        rounding = 8 * torch.finfo(_F64).eps * self.cov.norm() * W.square().sum(0)
        variances = (W * (self.cov @ W)).sum(0)
        return torch.where(variances > rounding, variances, 0.0)

    def covariances(
        self, W: Float[Tensor, "d_in n"], V: Float[Tensor, "d_in n"], variances: tuple[Tensor, Tensor]
    ) -> Float[Tensor, " n"]:
        """Cov(x w, x v) of the columns in pairs, within the bound that their variances set."""
        bound = (variances[0] * variances[1]).sqrt()
        return torch.minimum(torch.maximum((W * self.times_cov(V)).sum(0), -bound), bound)

    def sample(self, n: int, seed: int = 0) -> Float[Tensor, "n d_in"]:
        """Independent draws of x, from a generator on the CPU."""
        draws = torch.Generator().manual_seed(seed)
        z = torch.randn(n, len(self.mean), generator=draws, dtype=_F64).to(self.mean)
        if isinstance(self.cov, Tensor):
            values, vectors = torch.linalg.eigh(self.cov)
            z = (z * values.clamp(min=0).sqrt()) @ vectors.T
        elif self.cov is not None:
            z = z * (0.0 if self.cov.diagonal is None else self.cov.diagonal.sqrt())
            if self.cov.root is not None:
                low = torch.randn(n, len(self.cov.root), generator=draws, dtype=_F64).to(z)
                z = z + low @ self.cov.root
        return self.mean + z


def gaussian_components(
    mean: Float[Tensor, "*components d_in"] | None,
    cov: Float[Tensor, "*cov_components d_in d_in"] | FactoredCovariance | None,
    like: Float[Tensor, "width _"],
) -> tuple[list[Gaussian], bool]:
    """The Gaussians of `mean` [d_in] or [n, d_in] and `cov` [d_in, d_in] or [n, d_in, d_in], and whether they
    are a mixture: whether either has the leading axis. One without it is shared; None is 0 or the identity.
    A `FactoredCovariance` is one without it.

    They lie on the device of `like`, the weights [width, ·] that read them. `InputError` for other shapes,
    for numbers that are not finite, and for a `cov` that is not symmetric and positive semidefinite to the
    rounding of its own precision.
    """
    width = len(like)
    means = None if mean is None else _checked("mean", mean, (width,))
    factored = covs = None
    if isinstance(cov, FactoredCovariance):
        factored = _checked_factors(cov, width)
    elif cov is not None:
        covs = _checked("cov", cov, (width, width))
    leading = {
        len(value) for value, axes in ((means, 2), (covs, 3)) if value is not None and value.ndim == axes
    }
    if len(leading) > 1 or 0 in leading:
        raise InputError(f"mean and cov with {sorted(leading)} components; expected one number, at least 1")
    if covs is not None:
        covs = _symmetric_part(covs)
    zero = torch.zeros(width, dtype=_F64)
    n = leading.pop() if leading else None

    def converted(value: Tensor) -> Tensor:
        return value.to(device=like.device, dtype=_F64)

    means = converted(zero if means is None else means)
    means = means.expand(n or 1, width)
    if factored:
        parts = {name: converted(value) for name, value in vars(factored).items() if value is not None}
        return [Gaussian(each, FactoredCovariance(**parts)) for each in means], n is not None
    components = [
        Gaussian(means[i], None if covs is None else converted(covs[i] if covs.ndim == 3 else covs))
        for i in range(n or 1)
    ]
    return components, n is not None


def one_gaussian(
    mean: Float[Tensor, "*components d_in"] | None,
    cov: Float[Tensor, "*cov_components d_in d_in"] | FactoredCovariance | None,
    like: Float[Tensor, "width _"],
) -> Gaussian:
    """The Gaussian of `mean` [d_in] and `cov` [d_in, d_in]; `InputError` for a mixture."""
    components, mixture = gaussian_components(mean, cov, like)
    if mixture:
        raise InputError(
            f"mean and cov of a mixture of {len(components)}; expected one Gaussian: mean [d_in] and "
            "cov [d_in, d_in]"
        )
    return components[0]


def _checked(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    require_floating(value, name)
    if value.shape[-len(shape) :] != shape or value.ndim > len(shape) + 1:
        raise InputError(
            f"{name} of shape {list(value.shape)}; expected {list(shape)}, with one axis more for a mixture"
        )
    if not torch.isfinite(value).all():
        raise InputError(f"{name} holds numbers that are not finite; expected finite ones")
    return value.detach()


def _checked_factors(cov: FactoredCovariance, width: int) -> FactoredCovariance:
    if cov.root is None and cov.diagonal is None:
        raise InputError("a cov without factors; expected root [rank, d_in], diagonal [d_in] or both")
    for name, value, axes in (("root", cov.root, 2), ("diagonal", cov.diagonal, 1)):
        if value is not None:
            require_finite_numbers(value, f"{name} of cov")
            if value.ndim != axes or value.shape[-1] != width:
                raise InputError(
                    f"{name} of cov has shape {list(value.shape)}; expected "
                    f"{f'[rank, {width}]' if axes == 2 else [width]}"
                )
    if cov.diagonal is not None and (cov.diagonal < 0).any():
        raise InputError(f"diagonal of cov falls to {float(cov.diagonal.min()):g}; expected 0 or more")
    return cov


def _symmetric_part(cov: Tensor) -> Tensor:
    eps = torch.finfo(cov.dtype).eps
    cov = cov.to(_F64)
    largest = cov.abs().amax((-2, -1), keepdim=True)
    off = (cov - cov.mT).abs()
    if (off > eps ** (2 / 3) * largest).any():
        raise InputError(
            f"cov is not symmetric: entries differ by {float(off.max()):g} from their mirror images"
        )
    cov = (cov + cov.mT) / 2
    slack = cov.shape[-1] * eps * largest + torch.finfo(_F64).tiny
    _, failed = torch.linalg.cholesky_ex(cov + slack * torch.eye(cov.shape[-1]).to(cov))
    if failed.any():
        raise InputError(
            "cov is not a covariance: it has negative eigenvalues; expected a positive semidefinite matrix"
        )
    return cov
