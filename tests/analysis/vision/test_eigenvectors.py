"""Eigenvectors of classes against autograd and numpy; what they add up to against the classifier."""

import numpy as np
import pytest
import torch

from analysis import class_eigenvectors, effective_rank
from bilinear_lm import InputError

from .small import CLASSES, KINDS, SHAPE, classifier, hessian, images, logits, refusal

ONE = torch.eye(CLASSES, dtype=torch.float64)


def direction(c, versus):
    if versus == "others":
        return (CLASSES * ONE[c] - 1) / (CLASSES - 1)
    return ONE[c] if versus is None else ONE[c] - ONE[versus]


@pytest.mark.parametrize("versus", [None, "others", 2])
@pytest.mark.parametrize("kind", KINDS)
def test_they_are_those_of_half_the_hessian(kind, versus):
    model = classifier(**KINDS[kind])
    eigen = class_eigenvectors(model, versus=versus)
    assert eigen.classes == tuple(c for c in range(CLASSES) if c != versus)
    for row, c in enumerate(eigen.classes):
        matrix = hessian(model, direction(c, versus))
        oracle = np.linalg.eigvalsh(matrix.numpy())
        np.testing.assert_allclose(np.sort(eigen.values[row].numpy()), oracle, atol=1e-12)
        rebuilt = eigen.vectors[row].T @ (eigen.values[row].unsqueeze(1) * eigen.vectors[row])
        torch.testing.assert_close(rebuilt, matrix, atol=1e-12, rtol=0)


@pytest.mark.parametrize("space", ["pixels", "embedding"])
@pytest.mark.parametrize("versus", [None, "others", 0])
@pytest.mark.parametrize("kind", KINDS)
def test_all_parts_add_up_to_the_logits(kind, versus, space):
    model, x = classifier(**KINDS[kind]), images()
    eigen = class_eigenvectors(model, versus=versus, space=space)
    pixels = x.flatten(1)
    whole = eigen.activations(pixels).sum(-1) + pixels @ eigen.linear.T + eigen.constants
    u = torch.stack([direction(c, versus) for c in eigen.classes])
    torch.testing.assert_close(whole, logits(model, x) @ u.T, atol=1e-11, rtol=1e-11)


def test_in_pixels_they_depend_on_the_function_alone():
    model = classifier()
    before = class_eigenvectors(model)
    basis = torch.randn(12, 12, dtype=torch.float64)
    with torch.no_grad():  # another basis of the embedding, gate and in exchanged
        model.W_embed.copy_(model.W_embed @ basis)
        layer, inverse = model.layers[0], torch.linalg.inv(basis)
        gate, up = inverse @ layer.W_in, inverse @ layer.W_gate
        layer.W_gate.copy_(gate)
        layer.W_in.copy_(up)
    after = class_eigenvectors(model)
    torch.testing.assert_close(after.values, before.values, atol=1e-9, rtol=0)
    of_embedding = class_eigenvectors(model, space="embedding").values
    assert not torch.allclose(of_embedding, class_eigenvectors(classifier(), space="embedding").values)


def test_a_tensor_of_pixels_gives_the_same():
    model = classifier(**KINDS["with biases"])
    ours, of_tensor = class_eigenvectors(model, 3), class_eigenvectors(model.pixel_tensor(), 3)
    assert torch.equal(ours.vectors, of_tensor.vectors)
    assert torch.equal(ours.linear, of_tensor.linear)
    assert ours.images.shape == (CLASSES, 3, *SHAPE)
    assert of_tensor.image_shape == (20,)


def test_both_signs_are_the_ends_of_the_spectrum():
    model = classifier(**KINDS["with biases"])
    values, vectors = class_eigenvectors(model).both_signs(3)
    for c in range(CLASSES):
        matrix = hessian(model, ONE[c])
        spectrum = np.linalg.eigvalsh(matrix.numpy())
        np.testing.assert_allclose(values[c], [*spectrum[:-4:-1], *spectrum[:3]], atol=1e-12)
        torch.testing.assert_close(vectors[c] @ matrix, values[c, :, None] * vectors[c], atol=1e-12, rtol=0)


def test_where_a_sign_has_fewer_both_signs_are_filled_with_zeros():
    eigen = class_eigenvectors(classifier(**KINDS["square"]))
    values, vectors = eigen.both_signs(20)  # pixels, of which the classifier reads twelve directions
    assert values.shape == (CLASSES, 40)
    assert ((values != 0).sum(1) == 12).all()
    assert (values[:, :20] >= 0).all()
    assert (values[:, 20:] <= 0).all()
    assert torch.equal(vectors.norm(dim=2).round(), (values != 0).double())
    with pytest.raises(
        InputError, match="n=21 eigenvectors of each sign; expected 1 to the 20 that there are"
    ):
        eigen.both_signs(21)


def test_the_strongest_of_a_sign():
    eigen = class_eigenvectors(classifier())
    values, vectors = eigen.strongest(2, "negative")
    torch.testing.assert_close(values, eigen.values.sort(dim=1).values[:, :2])
    for row in range(CLASSES):
        index = int((eigen.values[row] == values[row, 1]).nonzero())
        assert torch.equal(vectors[row, 1], eigen.vectors[row, index])
    with pytest.raises(
        InputError, match=r"n=30 positive eigenvectors; expected 1 to the \d+ that every class"
    ):
        eigen.strongest(30)


def test_eigenvalues_that_are_zero_to_rounding_have_no_sign():
    model = classifier()  # by the law of inertia there are as many of each sign in both spaces
    embedded = class_eigenvectors(model, space="embedding").values
    for sign, name in ((1, "positive"), (-1, "negative")):
        most = int((sign * embedded > 1e-9).sum(1).min())
        for dtype in (torch.float64, torch.float32):
            eigen = class_eigenvectors(model.to(dtype))
            assert eigen.strongest(most, name)[0].shape == (CLASSES, most)
            with pytest.raises(
                InputError, match=f"n={most + 1} {name} eigenvectors; expected 1 to the {most} "
            ):
                eigen.strongest(most + 1, name)


def test_the_effective_rank_in_the_embedding_is_that_of_the_embedded_matrix():
    model = classifier()
    embedded = model.tensor().change_basis(outputs=model.W_head.detach().T.contiguous()).dense()
    values = np.linalg.eigvalsh(embedded.numpy())
    oracle = np.abs(values).sum(1) ** 2 / (values**2).sum(1)
    rank = effective_rank(class_eigenvectors(model, space="embedding").values)
    np.testing.assert_allclose(rank.numpy(), oracle, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: class_eigenvectors(m, versus=4), "class 4 does not exist; expected 0 to 3"),
        (lambda m: class_eigenvectors(m, classes=[7]), "class 7 does not exist"),
        (lambda m: class_eigenvectors(m, versus=1, classes=[1]), "class 1 versus itself"),
        (lambda m: class_eigenvectors(m, versus="rest"), "versus 'rest'; expected one of others"),
        (lambda m: class_eigenvectors(m, classes=[]), "no classes"),
        (lambda m: class_eigenvectors(m, 21), "k=21 eigenvectors; expected 1 to d_in=20"),
        (lambda m: class_eigenvectors(m, space="logits"), "space 'logits'; expected one of pixels"),
        (lambda m: class_eigenvectors(classifier(n_layers=2)), "a classifier of 2 layers"),
        (lambda m: class_eigenvectors(classifier(kind="relu")), "kind 'relu' has no tensor"),
        (
            lambda m: class_eigenvectors(classifier().pixel_tensor(), space="embedding"),
            "space 'embedding' of a tensor of pixels",
        ),
        (lambda m: class_eigenvectors(classifier().half()), "float16"),
        (
            lambda _: class_eigenvectors(3),
            "classifier is 3; expected an ImageClassifier of bilinear_lm.networks",
        ),
    ],
)
def test_refusals(call, said):
    assert said in refusal(call)
