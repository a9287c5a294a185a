"""Adversarial masks against numpy's pseudo-inverse, and what they do against the classifier's own logits."""

import numpy as np
import pytest
import torch

from analysis import (
    adversarial_mask,
    adversarial_masks,
    class_eigenvectors,
    edge_energy,
    mask_study,
)
from analysis.vision import edge_pixels

from .small import CLASSES, KINDS, SHAPE, classifier, images, logits, refusal

F64 = torch.float64


@pytest.mark.parametrize(
    ("among", "space"), [("all", "pixels"), ("all", "embedding"), ("class", "embedding")]
)
def test_a_mask_answers_to_one_eigenvector(among, space):
    model = classifier()
    masks = adversarial_masks(model, 2, among=among, space=space)
    vectors = class_eigenvectors(model, space=space).strongest(2)[1]
    for label, mask in enumerate(masks.masks):
        W = (vectors if among == "all" else vectors[[label]]).flatten(0, 1).numpy()
        row = 2 * label if among == "all" else 0
        oracle = np.linalg.pinv(W)[:, row]
        np.testing.assert_allclose(abs(oracle @ mask.numpy()), np.linalg.norm(oracle), rtol=1e-9)
        answers = W @ mask.numpy()
        np.testing.assert_allclose(np.delete(answers, row), 0, atol=1e-10)
        assert abs(answers[row]) > 1e-3
    torch.testing.assert_close(masks.masks.norm(dim=1), torch.ones(CLASSES, dtype=F64))
    torch.testing.assert_close(masks.eigenvectors.norm(dim=1), torch.ones(CLASSES, dtype=F64))


def test_orthonormal_eigenvectors_are_their_own_masks():
    masks = adversarial_masks(classifier().pixel_tensor(), 3)
    torch.testing.assert_close(masks.masks, masks.eigenvectors)


def test_one_mask_is_that_of_its_label():
    model = classifier()
    one = adversarial_mask(model, 2, 3)
    assert one.shape == SHAPE
    torch.testing.assert_close(one, adversarial_masks(model, 3).images[2])


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_counts_what_the_classifier_says(kind):
    model, x = classifier(**KINDS[kind]), images(40)
    labels = torch.arange(40) % CLASSES
    masks = adversarial_masks(model, 2, labels=[1, 3])
    study = mask_study(model, x, labels, masks, [0.5, 3.0], n_permutations=2)
    assert study.accuracy == pytest.approx(float((logits(model, x).argmax(1) == labels).double().mean()))
    for effect, added in ((study.masks, masks.masks), (study.eigenvectors, masks.eigenvectors)):
        for row, label in enumerate(masks.labels):
            for column, strength in enumerate(study.strengths):
                step = strength * added[row].reshape(SHAPE)
                given = [logits(model, x + sign * step).argmax(1) for sign in (1, -1)]
                turned = [float((each[labels != label] == label).double().mean()) for each in given]
                better = int(turned[1] > turned[0])
                assert float(effect.turned[row, column]) == pytest.approx(turned[better])
                right = float((given[better] == labels).double().mean())
                assert float(effect.accuracy[row, column]) == pytest.approx(right)


def test_without_strength_nothing_happens_and_permuted_pixels_have_the_same_values():
    model, x, labels = classifier(), images(40), torch.arange(40) % CLASSES
    study = mask_study(model, x, labels, adversarial_masks(model, 2), [0.0])
    for effect in (study.masks, study.permuted, study.eigenvectors):
        torch.testing.assert_close(effect.accuracy, torch.full((CLASSES, 1), study.accuracy, dtype=F64))
    from analysis.vision.strengths import _permuted

    masks = adversarial_masks(model, 2).restricted(edge_pixels(SHAPE, 1)).masks
    moved = _permuted(masks, torch.Generator().manual_seed(0))
    torch.testing.assert_close(moved.sort(1).values, masks.sort(1).values)
    assert torch.equal(moved == 0, masks == 0)
    assert not torch.equal(moved, masks)


def test_edge_energy_by_hand():
    image = torch.zeros(6, 6)
    image[0, 2], image[3, 3] = 3, 4
    energy = edge_energy(torch.stack([image, torch.ones(6, 6)]), width=1)
    torch.testing.assert_close(energy.shares, torch.tensor([9 / 25, 20 / 36]))
    assert energy.pixels == pytest.approx(20 / 36)
    assert int(edge_pixels((28, 28), 4).sum()) == 28**2 - 20**2


def test_restricted_masks_are_zero_elsewhere_and_of_length_one():
    masks = adversarial_masks(classifier(), 2)
    edge = edge_pixels(SHAPE, 1)
    kept = masks.restricted(edge)
    assert torch.equal(edge_energy(kept.images, 1).shares, torch.ones(CLASSES, dtype=F64))
    torch.testing.assert_close(kept.masks.norm(dim=1), torch.ones(CLASSES, dtype=F64))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: adversarial_mask(m, 4), "class 4 does not exist"),
        (lambda m: adversarial_mask(m, 1, 11), "n=11 positive eigenvectors"),
        (lambda m: adversarial_mask(m, 1, 0), "k=0 eigenvectors a class"),
        (lambda m: adversarial_masks(m, 4, among="all"), "k=4: 16 eigenvectors, but images of rank 12"),
        (lambda m: adversarial_masks(m, 2, among="both"), "among 'both'; expected one of class, all"),
        (lambda m: adversarial_masks(m, 2, labels=[]), "no labels of masks"),
        (lambda m: edge_energy(torch.ones(4)), "masks [4]; expected images"),
        (lambda m: edge_energy(torch.ones(8, 8), 4), "width=4 of an edge; expected 1 to 3 for 8 × 8"),
        (lambda m: adversarial_masks(m, 2).restricted(torch.ones(3, 3).bool()), "pixels [3, 3]"),
        (lambda m: adversarial_masks(m, 2).restricted(torch.zeros(SHAPE).bool()), "0 on all of the pixels"),
        (lambda m: study(m, strengths=[-1.0]), "strength -1.0 of a mask; expected a length of at least 0"),
        (lambda m: study(m, strengths=[]), "30 images and 0 strengths"),
        (lambda m: study(m, of=classifier(image_shape=(5, 5))), "masks [4, 25] for classes (0, 1, 2, 3)"),
    ],
)
def test_refusals(call, said):
    assert said in refusal(call)


def study(model, of=None, strengths=(1.0,)):
    masks = adversarial_masks(of or model, 2)
    return mask_study(model, images(), torch.arange(30) % CLASSES, masks, strengths)
