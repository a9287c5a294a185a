"""Ranks, explained predictions and singular directions, against the classifier itself and dense tensors."""

import numpy as np
import pytest
import torch

from analysis import accuracy_by_rank, class_eigenvectors, explain_prediction, image_directions
from analysis.vision.classifiers import Reading
from bilinear_lm.numerics import memory

from .small import CLASSES, KINDS, classifier, hessian, images, logits, refusal


def kept_by_hand(model, x, k):
    """Logits with each class's matrix put down to its k largest eigenvectors, by numpy."""
    pixels, zero = x.flatten(1), torch.zeros(1, 20, dtype=torch.float64)
    whole = logits(model, x)
    for c in range(CLASSES):
        u = torch.nn.functional.one_hot(torch.tensor(c), CLASSES).double()
        values, columns = np.linalg.eigh(hessian(model, u).numpy())
        lost = np.argsort(-np.abs(values))[k:]
        whole[:, c] -= torch.from_numpy((values[lost] * (pixels.numpy() @ columns[:, lost]) ** 2).sum(1))
    assert logits(model, zero).shape == (1, CLASSES)
    return whole


@pytest.mark.parametrize("kind", KINDS)
def test_accuracy_by_rank_is_that_of_the_truncated_forms(kind):
    model, x = classifier(**KINDS[kind]), images(60)
    labels = logits(model, x).argmax(1)
    ranks = accuracy_by_rank(model, x, labels, (1, 3, 10), n_random=2)
    assert ranks.whole == 1.0
    for k, accuracy in zip(ranks.ks, ranks.accuracy.tolist(), strict=True):
        assert accuracy == pytest.approx(
            float((kept_by_hand(model, x, k).argmax(1) == labels).double().mean())
        )
    assert ranks.random.shape == (2, 3)


@pytest.mark.parametrize("space", ["pixels", "embedding"])
def test_all_directions_that_it_reads_are_the_classifier(space):
    model, x = classifier(), images(60)
    labels = logits(model, x).argmax(1)
    r = len(Reading.of(model, space).span())
    assert r == 12
    ranks = accuracy_by_rank(model, x, labels, (r,), n_random=2, space=space)
    assert ranks.accuracy.tolist() == [1.0]
    assert ranks.random.tolist() == [[1.0], [1.0]]
    assert ranks.needed() == 12


def test_accuracy_by_rank_in_pieces_is_the_same(monkeypatch):
    model, x = classifier(**KINDS["with biases"]), images(40)
    labels = torch.arange(40) % CLASSES
    whole = accuracy_by_rank(model, x, labels, (1, 2))
    monkeypatch.setattr(memory, "CHUNK_BYTES", 2000)
    pieces = accuracy_by_rank(model, x, labels, (1, 2))
    assert torch.equal(whole.accuracy, pieces.accuracy)
    assert torch.equal(whole.random, pieces.random)


@pytest.mark.parametrize("versus", ["runner-up", "others", None, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_an_explanation_adds_up(kind, versus):
    model, x = classifier(**KINDS[kind]), images(1)[0]
    given = logits(model, x)
    label = 3 if versus == 1 else None
    explanation = explain_prediction(model, x, 3, label=label, versus=versus)
    own = given.argmax() if label is None else label
    others = torch.cat([given[:own], given[own + 1 :]])
    less = {"runner-up": others.max(), "others": others.mean(), None: 0.0, 1: given[1]}[versus]
    assert explanation.total == pytest.approx(float(given[own] - less), abs=1e-10)
    assert explanation.sum == pytest.approx(explanation.total, abs=1e-10)
    terms = explanation.values * (explanation.vectors @ x.flatten()).square()
    torch.testing.assert_close(terms, explanation.terms)
    everything = class_eigenvectors(model, versus=explanation.versus, classes=[explanation.label])
    sizes = everything.activations(x.flatten())[0].abs()
    torch.testing.assert_close(terms.abs(), sizes.topk(3).values)


def test_a_tensor_of_pixels_takes_images_of_any_shape():
    model, x = classifier(**KINDS["with biases"]), images(20)
    labels = torch.arange(20) % CLASSES
    own, of_tensor = (accuracy_by_rank(each, x, labels, (2,)) for each in (model, model.pixel_tensor()))
    assert torch.equal(own.accuracy, of_tensor.accuracy)


def test_a_plain_classifier_has_no_linear_part():
    explanation = explain_prediction(classifier(), images(1)[0], 20)
    assert (explanation.linear, explanation.constant, explanation.rest) == (0, 0, 0)


@pytest.mark.parametrize("centred", [True, False])
def test_image_directions_are_the_svd_of_the_dense_tensor(centred):
    model = classifier()
    dense = model.pixel_tensor().dense().flatten(1)
    if centred:
        dense = dense - dense.mean(0)
    left, sizes, right = np.linalg.svd(dense.numpy(), full_matrices=False)
    directions = image_directions(model, 2, 20, centred=centred)
    np.testing.assert_allclose(directions.spectrum.numpy(), sizes, atol=1e-7)
    np.testing.assert_allclose(np.abs(directions.directions.numpy()), np.abs(left.T[:2]), atol=1e-9)
    for values, vectors, q in zip(directions.values, directions.vectors, right[:2], strict=True):
        rebuilt = (vectors.T @ (values.unsqueeze(1) * vectors)).flatten().numpy()
        assert abs(rebuilt @ q) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda m: accuracy_by_rank(m, images(3)[:, :4], torch.zeros(3).long()),
            "images [3, 4, 4]; expected [n,",
        ),
        (
            lambda m: accuracy_by_rank(m, images(3), torch.tensor([0, 1, 4])),
            "labels [3] in torch.int64 for 3",
        ),
        (lambda m: accuracy_by_rank(m, images(3), torch.zeros(3)), "whole numbers [3]"),
        (lambda m: accuracy_by_rank(m, images(3), torch.zeros(2).long()), "labels [2]"),
        (lambda m: accuracy_by_rank(m, images(3), torch.zeros(3).long(), (13,)), "1 to the 12 it reads"),
        (lambda m: accuracy_by_rank(m, images(0), torch.zeros(0).long()), "0 images and 5 ks"),
        (
            lambda m: accuracy_by_rank(m, images(3).float(), torch.zeros(3).long()),
            "images is in torch.float32",
        ),
        (lambda m: explain_prediction(m, images(1)[0], label=4), "class 4 does not exist"),
        (
            lambda m: explain_prediction(m, images(1)[0], versus="next"),
            "versus 'next'; expected one of runner",
        ),
        (lambda m: explain_prediction(m, images(1)[0], label=1, versus=1), "class 1 versus itself"),
        (lambda m: explain_prediction(m, images(1)[0], 21), "k=21 eigenvectors of a prediction"),
        (
            lambda m: explain_prediction(m, torch.tensor(1.0).double()),
            "image [1]; expected [n, 5, 4] or [n, 20]",
        ),
        (lambda m: explain_prediction(m.pixel_tensor(), images(2)), "image [1, 2, 5, 4]"),
        (lambda m: explain_prediction(m, images(2)), "image [1, 2, 5, 4]; expected [n, 5, 4]"),
        (lambda m: explain_prediction(m, images(1)[0] * torch.nan), "NaN"),
        (lambda m: image_directions(m, 4), "n=4 singular directions of 4 classes; expected 1 to 3"),
    ],
)
def test_refusals(call, said):
    assert said in refusal(call)
