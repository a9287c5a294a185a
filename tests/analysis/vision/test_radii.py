"""Attacks against certificates, distances along lines by search, similarity by cosines."""

import numpy as np
import pytest
import torch

from analysis import class_eigenvectors, compare_radii, eigenvector_similarity, gradient_attack
from analysis.vision.radii import _along

from .small import CLASSES, KINDS, classifier, images, logits, refusal


@pytest.mark.parametrize("kind", KINDS)
def test_no_attack_is_nearer_than_the_certificate(kind):
    model, x = classifier(**KINDS[kind]), images(12)
    labels = logits(model, x).argmax(1)
    labels[0] = (labels[0] + 1) % CLASSES  # one that the classifier has wrong
    radii = compare_radii(model, x, labels)
    finite = radii.certified.isfinite()
    assert (radii.attacked[finite] >= radii.certified[finite] * (1 - 1e-9)).all()
    assert (radii.random[finite] >= radii.certified[finite] * (1 - 1e-9)).all()
    assert (radii.certified[0], radii.attacked[0], radii.random[0]) == (0, 0, 0)
    # The attack is worth the name: most of what it finds is close to the nearest there is.
    ratio = radii.attacked[1:] / radii.certified[1:]
    assert float(ratio.median()) < 1.05
    certified, attacked, random = radii.accuracy(float(radii.certified[1:].median()))
    assert certified <= attacked <= random


def test_what_an_attack_finds_has_another_label_at_its_distance():
    model, x = classifier(n_layers=2), images(20)  # any classifier can be attacked
    labels = logits(model, x).argmax(1)
    attacked = gradient_attack(model, x.flatten(1), labels, steps=60)
    found = attacked.distances.isfinite()
    assert found.sum() > 10
    change = attacked.images - x.flatten(1)
    torch.testing.assert_close(change.norm(dim=1)[found], attacked.distances[found])
    beyond = logits(model, x.flatten(1) + 1.0001 * change)[found]
    assert (beyond.argmax(1) != labels[found]).all()
    short = logits(model, x.flatten(1) + 0.999 * change)[found]
    assert (short.argmax(1) == labels[found]).double().mean() > 0.9


def test_an_attack_that_finds_nothing_says_so():
    x = images(5).flatten(1)
    attacked = gradient_attack(
        lambda x: torch.stack([x.sum(1) * 0 + 1, x.sum(1) * 0], 1), x, torch.zeros(5).long()
    )
    assert attacked.distances.isinf().all()
    assert torch.equal(attacked.images, x)


def test_distances_along_a_line_by_search():
    model, x = classifier(**KINDS["with biases"]), images(20).flatten(1)
    labels = logits(model, x).argmax(1)
    along = torch.nn.functional.normalize(torch.randn(20, 20, dtype=torch.float64), dim=1)
    found = _along(model.pixel_tensor(), x, along, labels)
    grid = torch.linspace(0, 20, 20001, dtype=torch.float64)
    for i in range(20):
        turned = [
            logits(model, x[i] + sign * grid[:, None] * along[i]).argmax(1) != labels[i] for sign in (1, -1)
        ]
        either = turned[0] | turned[1]
        if either.any():
            assert float(found[i]) == pytest.approx(float(grid[either.nonzero()[0]]), abs=2e-3)
        else:
            assert found[i] > 19.9


def test_similarity_is_the_nearest_of_a_few():
    models = [classifier(seed, d_model=d_model) for seed, d_model in ((0, 12), (1, 9), (2, 12))]
    similarity = eigenvector_similarity(models, 2, among=3)
    top = [class_eigenvectors(model).strongest(3)[1].numpy() for model in models]
    for i, j, c, r in np.ndindex(3, 3, CLASSES, 2):
        oracle = 1 if i == j else np.abs(top[j][c] @ top[i][c, r]).max()
        assert float(similarity.cosines[i, j, c, r]) == pytest.approx(oracle)
    others = [similarity.cosines[i, j, :, 1] for i in range(3) for j in range(3) if i != j]
    assert similarity.mean(1) == pytest.approx(float(torch.stack(others).mean()))
    dense = [model.pixel_tensor().dense().flatten() for model in models]
    oracle = torch.nn.functional.cosine_similarity(dense[0], dense[1], dim=0)
    torch.testing.assert_close(similarity.tensors[0, 1], oracle)


def test_a_classifier_is_similar_to_itself_whatever_its_units_are_called():
    model, same = classifier(), classifier()
    order = torch.randperm(10)
    with torch.no_grad():
        layer = same.layers[0]
        layer.W_gate.copy_(3 * model.layers[0].W_in[:, order])
        layer.W_in.copy_(model.layers[0].W_gate[:, order] / 3)
        layer.W_out.copy_(model.layers[0].W_out[order])
    similarity = eigenvector_similarity([model, same], 2, space="embedding")
    torch.testing.assert_close(similarity.cosines, torch.ones_like(similarity.cosines))
    assert float(similarity.random[0, 1].mean()) < 0.8
    assert float(similarity.tensors[0, 1]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: eigenvector_similarity([m]), "similarity of 1 classifiers; expected two or more"),
        (lambda m: eigenvector_similarity([m, classifier(n_classes=3)]), "classifiers of 20 to 3, 20 to 4"),
        (lambda m: eigenvector_similarity([m, m], 20), "n=20 positive eigenvectors"),
        (lambda m: compare_radii(m, images(2), torch.tensor([0, 9])), "0 to 3"),
        (lambda m: compare_radii(m, images(0), torch.zeros(0).long()), "no images"),
        (lambda m: compare_radii(m, images(2), torch.tensor([0, 1]), steps=0), "steps=0 of an attack"),
        (lambda m: attack(m, radius=0.0), "radius=0.0 of an attack"),
        (lambda m: attack(m, shrink=1.0), "shrink=1.0 of an attack"),
        (
            lambda m: gradient_attack(m, images(2).flatten(1), torch.tensor([0])),
            "labels [1]; expected [n, n_p",
        ),
    ],
)
def test_refusals(call, said):
    assert said in refusal(call)


def attack(model, **settings):
    return gradient_attack(model, images(2).flatten(1), torch.tensor([0, 1]), **settings)
