"""Readings of small networks are the same on another device: image classifiers, toy models, deep chains."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import analysis
from analysis.chains import chain_inner, second_moment, unfold
from analysis.spectra import in_basis, strongest_eigenvectors
from analysis.toys import (
    canonical_encoder,
    composed_polynomials,
    dimensionality,
    find_hops,
    frequency_shares,
    gate_coefficients,
    geometry,
    least_error,
    name_gate,
    second_layer_signals,
    share_in_span,
    solo_reconstruction,
)
from analysis.vision import edge_pixels
from bilinear_lm import BilinearTensor
from bilinear_lm.networks import ImageClassifier, ImageSettings, ToyModel, ToySettings

from .compare import numbers, same
from .stand_in import AROUND_NORMS, other_device

SHAPE, CLASSES = (5, 4), 3


@dataclass(frozen=True)
class Things:
    """What analyses read, in float64, all of it on one device."""

    device: torch.device
    classifier: ImageClassifier
    """Of one layer, with biases and a residual connection."""
    deep: ImageClassifier
    """Of three layers."""
    images: Tensor
    labels: Tensor
    toys: ToyModel
    """A batch of two."""
    tensor: BilinearTensor

    @classmethod
    def on(cls, device):
        torch.manual_seed(0)
        sizes = ImageSettings(SHAPE, n_classes=CLASSES, d_model=12, d_mlp=10, bias=True, residual=True)
        classifier = ImageClassifier(sizes)
        for name, parameter in classifier.named_parameters():
            if ".b_" in name or name == "b_head":
                torch.nn.init.normal_(parameter)
        deep = ImageClassifier(replace(sizes, n_layers=3, d_model=6))
        toys = ToyModel(ToySettings(n_inputs=3, n_outputs=2, n_layers=2), batch=(2,))
        factors = [torch.randn(shape).double() for shape in ((8, 20), (8, 20), (20, 5))]
        return cls(
            device,
            classifier.double().to(device),
            deep.double().to(device),
            torch.rand(30, *SHAPE).double().to(device),
            (torch.arange(30) % CLASSES).to(device),
            toys.double().to(device),
            BilinearTensor(*factors).to(device),
        )


def eigenvectors_of_images(x: Things):
    return [
        x.classifier.pixel_tensor()(x.images.flatten(1)),
        analysis.class_eigenvectors(x.classifier, k=4),
        analysis.class_eigenvectors(x.classifier, 4, "others", space="embedding"),
        analysis.class_eigenvectors(x.classifier, classes=[0, 2]).both_signs(3),
        analysis.image_directions(x.classifier, 2, 2),
        analysis.eigenvector_similarity([x.classifier, x.classifier.pixel_tensor()], 2),
    ]


def predictions_of_images(x: Things):
    return [
        analysis.accuracy_by_rank(x.classifier, x.images, x.labels, (1, 3), n_random=2),
        analysis.accuracy_by_rank(x.classifier, x.images, x.labels, (2,), space="embedding"),
        analysis.explain_prediction(x.classifier, x.images[0], 3),
        analysis.explain_prediction(x.classifier, x.images[1], 3, label=1, versus=2),
    ]


def masks_of_images(x: Things):
    masks = analysis.adversarial_masks(x.classifier, 2, labels=[0, 2])
    return [
        masks,
        analysis.adversarial_masks(x.classifier, 1, among="all", space="pixels"),
        masks.restricted(edge_pixels(SHAPE, 1)),
        analysis.mask_study(x.classifier, x.images, x.labels, masks, [0.0, 1.0, 2.0]),
        analysis.edge_energy(masks.images, 1),
    ]


def distances_of_images(x: Things):
    """Of two images with one label: each pair of classes costs seconds where Python does what a GPU would."""
    label = x.classifier(x.images).argmax(1)[0]
    images = x.images[:2]
    return [
        analysis.compare_radii(x.classifier, images, label.expand(2), steps=8),
        analysis.gradient_attack(x.classifier, images.flatten(1), label.expand(2), steps=8),
    ]


def gates(x: Things):
    layers = x.toys.folded()
    x_and_not_y = BilinearTensor(*(torch.tensor(rows) for rows in AND_NOT), constant=True).to(x.device)
    return [
        gate_coefficients(layers[0]),
        composed_polynomials(layers),
        name_gate(x_and_not_y),
        least_error(torch.eye(8).to(x.device), 2),
    ]


AND_NOT = [[1.0], [0.0], [0.0]], [[0.0], [-1.0], [1.0]], [[1.0]]
"""W_gate, W_in and W_out of x (1 − y)."""


def hops(x: Things):
    """Of x_0 x_1 + x_2 x_3 − x_0 x_1 x_2 x_3: the OR of two ANDs."""
    rows = torch.eye(4)
    first = BilinearTensor(rows[:, [0, 2]], rows[:, [1, 3]], torch.eye(2)).to(x.device)
    gate, up = torch.tensor([[1.0, 0, -1], [0, 1, 0], [0, 0, 0]]), torch.tensor([[0.0, 0, 0], [0, 0, 1]])
    up = torch.cat([up, torch.tensor([[1.0, 1, 0]])])
    second = BilinearTensor(gate, up, torch.ones(3, 1), constant=True).to(x.device)
    found = find_hops(first, second)
    assert [hop.gate for hop in found.hops] == ["AND", "AND"]
    assert found.output is not None
    assert found.output.name == "OR"
    signals = second_layer_signals(first, second)
    return [found, share_in_span(composed_polynomials([first]), signals)]


def superposition(x: Things):
    """A pentagon, and a pair of opposite features in dimensions of their own; solo outputs."""
    angles = torch.arange(5) * (2 * torch.pi / 5)
    encoder = torch.block_diag(torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([[1.0], [-1]]))
    encoder = encoder.to(x.device)
    tied = ToyModel(ToySettings(n_inputs=3, d_model=2, d_mlp=3, n_outputs=None, tied=True)).to(x.device)
    return [
        geometry(encoder),
        dimensionality(encoder),
        canonical_encoder(encoder),
        solo_reconstruction(tied.folded()[0]),
        frequency_shares(x.images),
    ]


def chains(x: Things):
    chain = analysis.as_chain(x.deep)
    moment = second_moment(x.images.flatten(1), chain.constant)
    diagonal = analysis.diagonalise(chain)
    ranks = diagonal.ranks_without(0.3)
    cut = diagonal.truncate(ranks)
    return [
        chain_inner(chain, chain, moment),
        analysis.orthogonalise(chain)(x.images.flatten(1)),
        analysis.diagonalise(chain, moment).weights,
        [diagonal.weights, diagonal.predicted(ranks), diagonal.measured(ranks)],
        [list(ranks), cut(x.images.flatten(1))],
        analysis.chain_error(chain, cut, moment),
        # An eigenvalue's sign turns with its parent's eigenvector, whose own is a convention.
        [level.values.abs() for level in unfold(chain, share=0.9).levels],
    ]


def sparse_interactions(x: Things):
    found = [analysis.shared_basis(x.tensor, objective, steps=3) for objective in ("absolute", "diagonal")]
    pairs = found[0].strongest(9)
    return [
        [basis.weights for basis in found],
        [basis.needed(0.9) for basis in found],
        analysis.keep_pairs(x.tensor, found[0].directions, pairs)(x.images.flatten(1)[:, :8]),
        in_basis(x.tensor, torch.eye(8, dtype=torch.float64, device=x.device)),
        strongest_eigenvectors(x.tensor, 0.9).weights,
    ]


CASES: list[Callable[[Things], list]] = [
    eigenvectors_of_images,
    predictions_of_images,
    masks_of_images,
    distances_of_images,
    gates,
    hops,
    superposition,
    chains,
    sparse_interactions,
]


@AROUND_NORMS
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_same_on_another_device(case):
    expected = numbers(case(Things.on(torch.device("cpu"))))
    with other_device() as device:
        found = numbers(case(Things.on(device)))
    same(found, expected)
