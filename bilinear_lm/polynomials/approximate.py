"""Closed-form least-squares polynomials of MLPs and GLUs on Gaussian inputs.

Among all polynomials P of degree ≤ 2 in the coordinates of x, this is the one with the smallest
E‖f(x) − P(x)‖² at x ~ N(mean, cov). For one Gaussian it is a Hermite expansion unit by unit
(`bilinear_lm.polynomials.expansion`), in closed form and in factors: O(d_mlp d_in²) time, no system of
equations. (Belrose and Rigg, arXiv 2502.01032, for MLPs at N(0, 1); any Gaussian, and quadratics of GLUs,
follow from the same expansion.)
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.polynomials.expansion import HiddenLayer, expand_units, hidden_layer
from bilinear_lm.polynomials.gaussian import gaussian_components
from bilinear_lm.polynomials.hermite import Activation
from bilinear_lm.polynomials.mixture import project_mixture
from bilinear_lm.polynomials.polynomial import Polynomial, expanded


@checked
def approximate_mlp(
    W_in: Float[Tensor, "d_in d_mlp"],
    W_out: Float[Tensor, "d_mlp d_out"],
    activation: Activation,
    b_in: Float[Tensor, " d_mlp"] | None = None,
    b_out: Float[Tensor, " d_out"] | None = None,
    *,
    degree: int = 2,
    mean: Float[Tensor, "*components d_in"] | None = None,
    cov: Float[Tensor, "*cov_components d_in d_in"] | None = None,
) -> Polynomial:
    """The least-squares polynomial of σ(x W_in + b_in) W_out + b_out at x ~ N(mean, cov).

    `degree` is 0, 1 or 2. `mean` is 0 and `cov` the identity by default. `cov` may be singular; then the
    polynomial is one of those that agree wherever x can be. A leading axis on `mean`, `cov` or both makes an
    equal-weight mixture of Gaussians; what that costs is in `bilinear_lm.polynomials.mixture`.

    `activation` is a name or a function (`bilinear_lm.polynomials.hermite`). All is computed in float64 and
    returned in the dtype of the weights. For one Gaussian the quadratic part has d_mlp hidden units.

    >>> P = approximate_mlp(torch.randn(8, 32), torch.randn(32, 5), "gelu")
    >>> P.linear.shape, P.quadratic.d_mlp, P(torch.randn(100, 8)).shape
    (torch.Size([8, 5]), 32, torch.Size([100, 5]))
    """
    layer = hidden_layer(W_gate=W_in, W_out=W_out, b_gate=b_in, b_out=b_out)
    return _approximate(layer, activation, degree, mean, cov).in_precision(W_in.dtype)


@checked
def approximate_glu(
    W_gate: Float[Tensor, "d_in d_mlp"],
    W_in: Float[Tensor, "d_in d_mlp"],
    W_out: Float[Tensor, "d_mlp d_out"],
    activation: Activation,
    b_gate: Float[Tensor, " d_mlp"] | None = None,
    b_in: Float[Tensor, " d_mlp"] | None = None,
    b_out: Float[Tensor, " d_out"] | None = None,
    *,
    degree: int = 2,
    mean: Float[Tensor, "*components d_in"] | None = None,
    cov: Float[Tensor, "*cov_components d_in d_in"] | None = None,
) -> Polynomial:
    """The least-squares polynomial of [σ(x W_gate + b_gate) ∘ (x W_in + b_in)] W_out + b_out at N(mean, cov).

    Degree, inputs, activation and precision as for `approximate_mlp`. With a linear activation and degree 2
    it is the layer itself. `bilinear_lm.polynomials.bilinear` writes the quadratic one as a bilinear layer.

    >>> W_gate, W_in, W_out, x = (torch.randn(shape) for shape in ((8, 32), (8, 32), (32, 8), (999, 8)))
    >>> P = approximate_glu(W_gate, W_in, W_out, "silu", mean=x.mean(0), cov=x.T.cov())
    >>> P(x).shape
    torch.Size([999, 8])
    """
    layer = hidden_layer(W_gate=W_gate, W_in=W_in, W_out=W_out, b_gate=b_gate, b_in=b_in, b_out=b_out)
    return _approximate(layer, activation, degree, mean, cov).in_precision(W_gate.dtype)


def _approximate(
    layer: HiddenLayer, activation: Activation, degree: int, mean: Tensor | None, cov: Tensor | None
) -> Polynomial:
    require_count(degree, f"degree {degree} of a polynomial", "0, 1 or 2", least=0, most=2)
    components, mixture = gaussian_components(mean, cov, layer.W_gate)
    polynomials = [expanded(layer, expand_units(layer, activation, at), at, degree) for at in components]
    if not mixture:
        return polynomials[0]
    return project_mixture(polynomials, components)
