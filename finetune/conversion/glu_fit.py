"""Bilinear layers fitted to a GLU on the inputs that it really gets.

Minimises the mean squared error E|B(x) - GLU(x)|² over measured x: the gate starts as the best line through
the activation at each unit's own pre-activations, gradient steps move all weights, and the output weights
are solved for exactly at the end by ridge regression on the products of gate and up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad
from tqdm.auto import trange

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_seed
from bilinear_lm.errors import InputError
from bilinear_lm.glu_weights import GLUWeights
from finetune.bounds import COUNT, LARGEST, POSITIVE, Bounds, require_kinds

LINEAR = nn.Identity()

CHUNK = 16_384
"""Points whose hidden units are computed at once."""


@dataclass(frozen=True)
class FitSettings:
    """Settings of the fit of a bilinear layer to measured inputs."""

    steps: int = 1_000
    """Gradient steps of Adam for each layer."""
    batch_size: int = 2_048
    """Points a step."""
    learning_rate: float = 0.03
    """First step size, relative to the root mean square of each weight matrix; it falls to zero linearly."""
    ridge: float = 1e-6
    """Regularisation of the output weights, relative to the mean square of the hidden units."""
    seed: int = 0
    """Seeds the choice of points."""

    def check(self) -> None:
        """Raises InputError where a setting makes no sense."""
        require_kinds(self)
        require_seed(self.seed)
        bounds = {"steps": Bounds(0, LARGEST), "batch_size": COUNT}
        bounds |= dict.fromkeys(("learning_rate", "ridge"), POSITIVE)
        if not all(limit.admit(getattr(self, name)) for name, limit in bounds.items()):
            raise InputError(
                f"{self}; expected steps of at least 0, batch_size of at least 1, learning_rate and ridge "
                "above 0"
            )


@checked
def fit_bilinear(
    factors: GLUWeights,
    activation: Callable[[Tensor], Tensor],
    points: Float[Tensor, "n d_in"],
    *,
    biases: bool = True,
    settings: FitSettings | None = None,
    progress: bool = False,
) -> GLUWeights:
    """The weights of a bilinear layer of the same width that is close to a GLU at `points`.

    Without `biases` the layer has none. Works in float32, on the device of the points.

    Raises InputError where the steps diverge.
    """
    settings = settings or FitSettings()
    settings.check()
    points = points.float()
    glu = factors.to(torch.float32)
    with torch.no_grad():
        start = best_lines(glu, activation, points, biases)
        targets = torch.cat([glu.output(x, activation) for x in points.split(CHUNK)])
        # Above 0 for an MLP that puts out the same everywhere.
        scale = (targets - targets.mean(dim=0)).square().sum(dim=1).mean().clamp_min(1e-30)
    fitted = _descend(start, points, targets, scale, settings, progress)
    if fitted.is_finite():
        with torch.no_grad():
            fitted = _with_solved_output(fitted, points, targets, settings.ridge)
    if not fitted.is_finite():
        raise InputError(
            f"the fit of a bilinear layer diverged at a relative learning rate of {settings.learning_rate}; "
            "give a smaller one"
        )
    return fitted


def best_lines(
    glu: GLUWeights,
    activation: Callable[[Tensor], Tensor],
    points: Float[Tensor, "n d_in"],
    biases: bool = True,
) -> GLUWeights:
    """The GLU with each unit's activation replaced by its least-squares line a y + b at the points.

    Without `biases` the line goes through the origin, and the GLU's own biases are dropped.
    """
    if glu.b_gate is None:
        glu = replace(glu, b_gate=torch.zeros_like(glu.W_gate[0]), b_in=torch.zeros_like(glu.W_gate[0]))
    sums = torch.zeros(4, glu.W_gate.shape[1], dtype=torch.float64, device=points.device)
    for x in points.split(CHUNK):
        y = x @ glu.W_gate + glu.b_gate
        value = activation(y)
        sums += torch.stack([part.double().sum(dim=0) for part in (y, value, y * y, y * value)])
    mean_y, mean_value, mean_yy, mean_yv = sums / len(points)
    if biases:
        slope = (mean_yv - mean_y * mean_value) / (mean_yy - mean_y.square()).clamp_min(1e-30)
        intercept = mean_value - slope * mean_y
        return replace(
            glu,
            W_gate=glu.W_gate * slope.float(),
            b_gate=glu.b_gate * slope.float() + intercept.float(),
            b_out=torch.zeros_like(glu.W_out[0]) if glu.b_out is None else glu.b_out,
        )
    slope = mean_yv / mean_yy.clamp_min(1e-30)
    return GLUWeights(glu.W_gate * slope.float(), glu.W_in, glu.W_out)


def explained(
    fitted: GLUWeights,
    glu: GLUWeights,
    activation: Callable[[Tensor], Tensor],
    points: Float[Tensor, "n d_in"],
) -> float:
    """R²: the share of the variance of a GLU's output at the points that a bilinear layer gives back."""
    total = torch.zeros(glu.W_out.shape[1], dtype=torch.float64, device=points.device)
    error, square = 0.0, 0.0
    with torch.no_grad():
        for x in points.split(CHUNK):
            target = glu.output(x, activation).double()
            total += target.sum(dim=0)
            square += float(target.square().sum())
            error += float((fitted.output(x, LINEAR).double() - target).square().sum())
    variance = square - float(total.square().sum()) / len(points)
    if variance <= 0:  # an MLP that puts out the same everywhere
        return float(error == 0)
    return 1 - error / variance


def _descend(
    start: GLUWeights,
    points: Tensor,
    targets: Tensor,
    scale: Tensor,
    settings: FitSettings,
    progress: bool,
) -> GLUWeights:
    names = list(start.weights)
    weights = {name: getattr(start, name).detach().clone().requires_grad_() for name in names}
    size = {name: float(getattr(start, f"W{name[1:]}").square().mean().sqrt()) for name in names}
    optimizer = torch.optim.Adam(
        [{"params": [weights[name]], "lr": settings.learning_rate * size[name]} for name in names],
        betas=(0.9, 0.99),
    )
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(1, settings.steps))
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in trange(settings.steps, desc="fit", unit=" steps", leave=False, disable=not progress):
        rows = torch.randint(len(points), (settings.batch_size,), generator=generator).to(points.device)
        error = GLUWeights(**weights).output(points[rows], LINEAR) - targets[rows]
        loss = error.square().sum(dim=1).mean() / scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    return GLUWeights(**{name: value.detach() for name, value in weights.items()})


def _with_solved_output(fitted: GLUWeights, points: Tensor, targets: Tensor, ridge: float) -> GLUWeights:
    """The output weights (and bias) that are best for the given gate and up weights."""
    constant = fitted.b_out is not None
    width = fitted.W_out.shape[0] + int(constant)
    gram = torch.zeros(width, width, dtype=torch.float64, device=points.device)
    cross = gram.new_zeros(width, targets.shape[1])
    for x, target in zip(points.split(CHUNK), targets.split(CHUNK), strict=True):
        units = pad(fitted.hidden(x, LINEAR), (0, int(constant)), value=1.0).double()
        gram += units.T @ units
        cross += units.T @ target.double()
    size = gram.diagonal()[: fitted.W_out.shape[0]].mean()
    # A matrix that cannot be inverted gives weights that are not finite, and no error of its own.
    solved = torch.linalg.solve_ex(gram + ridge * size * torch.eye(len(gram)).to(gram), cross).result.float()
    if not constant:
        return replace(fitted, W_out=solved)
    return replace(fitted, W_out=solved[:-1], b_out=solved[-1])
