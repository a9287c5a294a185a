"""Polynomials of small MNIST classifiers: R², eigenvectors of their quadratics, adversarial examples.

    python benchmarks/polynomial_mnist.py [--seeds 3] [--figure eigenvectors.png]

ReLU and GELU MLPs with one hidden layer, on MNIST images of 14 × 14 pixels (means of four), with noise of
standard deviation 0.1 a pixel in training and in all Gaussians. R² is that of the logits: under one Gaussian
with the mean and covariance of the training images, in closed form, before and after training; under the
equal mixture of the Gaussians of the ten classes, by samples of it; and on test images. Attacks are made for
the quadratic of the one Gaussian and tried on the network, beside random directions of equal norm. Cells are
means over seeds, and the range.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import torch
from mnist import Images, read_mnist
from tables import Table
from torch import Tensor
from torch.nn import functional as F

from analysis.polynomials.attacks import attack_success, eigen_attack, svd_attack
from analysis.spectra.eigen import eigendecompose
from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.polynomials.approximate import approximate_layer
from bilinear_lm.polynomials.explained import explained_variance
from bilinear_lm.polynomials.gaussian import Gaussian
from bilinear_lm.polynomials.hermite import activation_function
from bilinear_lm.polynomials.measured import RSquared
from bilinear_lm.polynomials.polynomial import Polynomial

SIDE, D_MLP, EPOCHS, BATCH, NOISE = 14, 256, 8, 256, 0.1
ACTIVATIONS, DEGREES = ("relu", "gelu"), (1, 2, 3, 4)
SAMPLES, ATTACKED, NORMS, KS = 5000, 1000, (0.5, 1.0), (1, 9)


def new_layer(seed: int) -> GLUWeights:
    draws = torch.Generator().manual_seed(seed)
    W_in, W_out = (
        torch.randn(shape, generator=draws, dtype=torch.float64) / shape[0] ** 0.5
        for shape in ((SIDE**2, D_MLP), (D_MLP, 10))
    )
    return GLUWeights(
        W_in, None, W_out, torch.zeros(D_MLP, dtype=torch.float64), None, torch.zeros(10).double()
    )


def trained(layer: GLUWeights, activation: str, images: Images, seed: int) -> GLUWeights:
    """AdamW with decaying step size and weight decay."""
    weights = {name: value.float().clone().requires_grad_() for name, value in layer.weights.items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=2e-3, weight_decay=0.1)
    steps = EPOCHS * len(images.x) // BATCH
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    draws, function = torch.Generator().manual_seed(seed), activation_function(activation)
    x = images.x.float()
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,), generator=draws)
        noisy = x[rows] + NOISE * torch.randn(BATCH, x.shape[1], generator=draws)
        loss = F.cross_entropy(GLUWeights(W_in=None, **weights).output(noisy, function), images.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    return GLUWeights(W_in=None, **{name: value.detach().double() for name, value in weights.items()})


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), x.T.cov(correction=0) + NOISE**2 * torch.eye(x.shape[1], dtype=x.dtype)


def measured(layer: GLUWeights, activation: str, polynomial: Polynomial, x: Tensor) -> RSquared:
    r_squared = RSquared()
    r_squared.add(layer.output(x, activation_function(activation)), polynomial(x))
    return r_squared


def explain(layer: GLUWeights, activation: str, name: str, train: Images, test: Images, table: Table) -> None:
    """R² by degree under one Gaussian, and of the quadratics on both distributions and on test images."""
    mean, cov = moments(train.x)
    classes = [moments(train.x[train.labels == digit]) for digit in range(10)]
    means, covs = (torch.stack(each) for each in zip(*classes, strict=True))
    one = approximate_layer(layer, activation, mean=mean, cov=cov)
    linear, mixed = (
        approximate_layer(layer, activation, degree=degree, mean=means, cov=covs) for degree in (1, 2)
    )
    draws = torch.cat([Gaussian(*at).sample(SAMPLES, seed) for seed, at in enumerate(classes)])
    on_mixture = measured(layer, activation, mixed, draws)
    numbers = [measured(layer, activation, linear, draws).value, on_mixture.value, on_mixture.standard_error]
    table.add(name, numbers + [measured(layer, activation, each, test.x).value for each in (one, mixed)])


def by_degree(layer: GLUWeights, activation: str, name: str, train: Images, table: Table) -> None:
    """R² under one Gaussian, in closed form."""
    mean, cov = moments(train.x)
    found = explained_variance(layer, activation, degree=max(DEGREES), mean=mean, cov=cov)
    table.add(name, [*found.r_squared[list(DEGREES)].tolist(), found.error / found.variance])


def attack(layer: GLUWeights, activation: str, train: Images, test: Images, table: Table) -> None:
    mean, cov = moments(train.x)
    polynomial = approximate_layer(layer, activation, mean=mean, cov=cov).around(mean)
    function, images = activation_function(activation), test.first(ATTACKED)

    def network(x: Tensor) -> Tensor:
        return layer.output(x, function)

    for name, way in (("svd", svd_attack), ("eigen", eigen_attack)):
        for k, norm in product(KS, NORMS):
            made = way(polynomial, images.x, images.labels, norm=norm, k=k)
            found = attack_success(made, polynomial, network, images.x, images.labels)
            numbers = [found.network, found.polynomial, found.random]
            table.add(f"{activation}, {name}, k {k}, norm {norm}", numbers)


def draw_eigenvectors(polynomial: Polynomial, path: Path, n: int = 4) -> None:
    """The eigenvectors with the most positive and most negative eigenvalues of each digit's quadratic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    centered = torch.eye(10, dtype=torch.float64) - 0.1  # a digit's logit less the mean of all logits
    eigen = eigendecompose(polynomial.quadratic, centered)
    figure, axes = plt.subplots(10, 2 * n, figsize=(2 * n, 10.5))
    for digit, (values, vectors) in enumerate(zip(eigen.values, eigen.vectors, strict=True)):
        order = values.argsort(descending=True)
        chosen = [*order[:n].tolist(), *order[-n:].flip(0).tolist()]
        for axis, index in zip(axes[digit], chosen, strict=True):
            vector = vectors[index].reshape(SIDE, SIDE)
            most = float(vector.abs().max())
            axis.imshow(vector, cmap="RdBu", vmin=-most, vmax=most)
            axis.set_title(f"{float(values[index]):+.2f}", fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
        axes[digit, 0].set_ylabel(str(digit), rotation=0, labelpad=10)
    figure.suptitle(
        "Eigenvectors of each digit's quadratic: four most positive, four most negative", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main(seeds: int, figure: Path | None) -> None:
    train, test = read_mnist(SIDE, torch.float64)
    degrees, mixtures, attacks = Table(".4f"), Table(".4f"), Table(".4f")
    for seed in range(seeds):
        for activation in ACTIVATIONS:
            start = new_layer(seed)
            layer = trained(start, activation, train, seed)
            right = layer.output(test.x, activation_function(activation)).argmax(1) == test.labels
            print(f"seed {seed}, {activation}: accuracy {float(right.double().mean()):.4f}", flush=True)
            by_degree(start, activation, f"{activation}, untrained", train, degrees)
            by_degree(layer, activation, f"{activation}, trained", train, degrees)
            attack(layer, activation, train, test, attacks)
            if figure and seed == 0 and activation == "relu":
                mean, cov = moments(train.x)
                draw_eigenvectors(approximate_layer(layer, activation, mean=mean, cov=cov), figure)
            explain(layer, activation, f"{activation}, trained", train, test, mixtures)
        degrees.show("one Gaussian, degree 1 | 2 | 3 | 4 | bound on the error")
        mixtures.show(
            "mixture, degree 1 | degree 2 | its standard error | test images, quadratic of one Gaussian | "
            "of the mixture"
        )
        attacks.show("network | polynomial | network, random direction")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figure", type=Path, default=None)
    arguments = parser.parse_args()
    main(arguments.seeds, arguments.figure)
