"""Margins and radii of classifiers by hand, by brute force and by attacks."""

import pytest
import torch

from analysis import certified_margins, certified_radius
from bilinear_lm import BilinearTensor, InputError

from .test_certify import OUT, D, draw, layer


def test_by_hand():
    # Logits x² and y²: the classes are equal on the lines y = ±x.
    tensor = BilinearTensor(torch.eye(2), torch.eye(2), torch.eye(2))
    x = torch.tensor([[3.0, 1.0], [0.0, 2.0], [1.0, 1.0]])
    found = certified_radius(tensor, x)
    assert found.labels[:2].tolist() == [0, 1]
    assert found.radius.tolist() == pytest.approx([2**0.5, 2**0.5, 0])
    assert found.nearest[0].tolist() == pytest.approx([2, 2])
    assert found.nearest[1].abs().tolist() == pytest.approx([1, 1])
    assert found.accuracy(0.0) == pytest.approx(2 / 3)
    assert found.accuracy(1.5) == 0
    angles = torch.linspace(0, 2 * torch.pi, 100_001).double()
    margins = certified_margins(tensor, x, 1.0)
    around = (3 + angles.cos()) ** 2 - (1 + angles.sin()) ** 2
    assert float(margins[0, 1]) == pytest.approx(float(around.min()))
    assert margins[0, 0] == torch.inf


def test_a_class_that_never_catches_up():
    tensor = BilinearTensor.from_layer(
        torch.eye(1), torch.eye(1), torch.tensor([[1.0, 0.0]]), b_out=torch.tensor([1.0, 0.0])
    )
    found = certified_radius(tensor, torch.tensor([[0.5]]))
    assert found.radius.tolist() == [torch.inf]
    assert found.nearest.tolist() == [[0.5]]


def test_attacks_succeed_at_the_radius_and_not_before():
    tensor, x = layer(), draw(8, D, seed=30)
    found = certified_radius(tensor, x)
    finite = found.radius.isfinite()
    assert torch.allclose((found.nearest - x).norm(dim=1)[finite], found.radius[finite])
    top = tensor(found.nearest).topk(2).values
    assert torch.allclose(top[finite, 0], top[finite, 1], atol=1e-9)
    directions = torch.nn.functional.normalize(draw(3000, D, seed=31), dim=1)
    near = x[:, None] + 0.999 * found.radius.clamp(max=10)[:, None, None] * directions
    assert (tensor(near).argmax(-1) == found.labels[:, None]).all()
    margins = certified_margins(tensor, x, 0.3)
    logits = tensor(x[:, None] + 0.3 * directions)
    own = logits.take_along_dim(found.labels[:, None, None], -1)
    sampled = (own - logits).amin(1)
    others = torch.arange(OUT) != found.labels[:, None]
    assert (margins[others] <= sampled[others] + 1e-9).all()
    scale = (tensor(x).gather(1, found.labels[:, None]) - tensor(x) - margins)[others]
    assert ((sampled - margins)[others] < 0.5 * scale).all()
    assert torch.equal((margins > 0).all(1), found.radius > 0.3)


def test_wrong_labels_have_no_radius():
    tensor, x = layer(dtype=torch.float32), draw(6, D, seed=30, dtype=torch.float32)
    wrong = (tensor(x).argmax(1) + 1) % OUT
    found = certified_radius(tensor, x, wrong)
    assert (found.radius == 0).all()
    assert torch.equal(found.nearest, x)


T, X = layer(), draw(3, D)
BAD = {
    "width": (lambda: certified_radius(T, draw(3, D + 1)), "expected"),
    "NaN": (lambda: certified_radius(T, X * torch.nan), "NaN"),
    "precision": (lambda: certified_radius(T, X.float()), "float32"),
    "labels": (lambda: certified_radius(T, X, torch.tensor([0, 1, OUT])), "labels"),
    "as many labels": (lambda: certified_radius(T, X, torch.tensor([0])), "labels"),
    "epsilon": (lambda: certified_margins(T, X, 0.0), "epsilon=0"),
    "one class": (lambda: certified_radius(T.change_basis(outputs=draw(1, OUT)), X), "two classes"),
}


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("what", BAD)
def test_bad_input(what):
    call, said = BAD[what]
    with pytest.raises(InputError, match=said):
        call()
