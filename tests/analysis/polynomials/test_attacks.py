"""Attacks against brute force over directions, and their transfer against counting."""

import pytest
import torch

from analysis import attack_success, eigen_attack, svd_attack
from analysis.polynomials.attacks import _best_on_sphere
from bilinear_lm import InputError, approximate_mlp
from bilinear_lm.polynomials.polynomial import from_forms

F64 = torch.float64
D, CLASSES = 6, 4


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def polynomial(seed=0):
    forms = draw(CLASSES, D, D, seed=seed)
    return from_forms(draw(CLASSES, seed=seed + 1), draw(D, CLASSES, seed=seed + 2), forms + forms.mT)


def examples(P, n=12):
    x = draw(n, D, seed=9)
    return x, P(x).argmax(1)


def margins(P, x, labels):
    logits = P(x)
    own = logits.gather(1, labels.unsqueeze(1))
    return (logits - own).scatter(1, labels.unsqueeze(1), -torch.inf)


def sphere(n, d, seed=3):
    return torch.nn.functional.normalize(draw(n, d, seed=seed), dim=1)


def test_with_all_eigenvectors_no_direction_is_better():
    P = polynomial()
    x, labels = examples(P)
    found = eigen_attack(P, x, labels, norm=0.7, k=D)
    assert torch.allclose((found.images - x).norm(dim=1), torch.full((12,), 0.7, dtype=F64))
    best = margins(P, found.images, labels).max(1)
    assert torch.equal(best.indices, found.targets)
    tried = (x.unsqueeze(1) + 0.7 * sphere(2000, D)).flatten(0, 1)
    others = margins(P, tried, labels.repeat_interleave(2000)).amax(1).reshape(12, 2000)
    assert (others.amax(1) <= best.values + 1e-9).all()


def test_with_all_singular_vectors_it_is_the_gradient_of_a_linear_map():
    P = polynomial().around(draw(D, seed=5))
    P = type(P)(P.constant, P.linear, None, 1, P.center)
    x, labels = examples(P)
    found = svd_attack(P, x, labels, norm=0.5, k=CLASSES)
    best = margins(P, found.images, labels).amax(1)
    tried = (x.unsqueeze(1) + 0.5 * sphere(2000, D)).flatten(0, 1)
    others = margins(P, tried, labels.repeat_interleave(2000)).amax(1).reshape(12, 2000)
    assert (others.amax(1) <= best + 1e-9).all()
    one = svd_attack(P, x, labels, norm=0.5, k=1).images - x
    U = torch.linalg.svd(P.linear - P.linear.mean(1, keepdim=True)).U[:, 0]
    assert torch.allclose(one.abs(), 0.5 * U.abs().expand(12, D))


@pytest.mark.parametrize("case", ["ordinary", "no slope", "no slope along the top", "equal values"])
def test_best_on_a_sphere(case):
    values, slopes = draw(4, seed=1), draw(3, 4, seed=2)
    if case == "no slope":
        slopes = 0 * slopes
    if case == "no slope along the top":
        slopes[:, values.argmax()] = 0
        slopes *= 0.01
    if case == "equal values":
        values = torch.full((4,), -2.0, dtype=F64)
    a = _best_on_sphere(values, slopes, 1.5)
    assert torch.allclose(a.norm(dim=1), torch.full((3,), 1.5, dtype=F64), rtol=1e-5)
    reached = a.square() @ values + (a * slopes).sum(1)
    tried = 1.5 * sphere(20_000, 4)
    assert (((tried.square() @ values) + slopes @ tried.T).amax(1) <= reached + 1e-6).all()


def test_transfer_is_counted_among_images_in_their_class():
    W, W_out = draw(D, 20) / 2, draw(20, CLASSES, seed=1)
    P, x = approximate_mlp(W, W_out, "relu"), draw(300, D, seed=2)

    def network(x):
        return torch.relu(x @ W) @ W_out

    labels = network(x).argmax(1)
    labels[::5] = (labels[::5] + 1) % CLASSES
    attack = eigen_attack(P, x, labels, norm=0.5, k=3)
    found = attack_success(attack, P, network, x, labels, seed=1)
    right = network(x).argmax(1) == labels
    fallen = network(attack.images).argmax(1) != labels
    assert found.n_images == int(right.sum()) == 240
    assert found.network == pytest.approx(float(fallen[right].double().mean()))
    assert found.network > 2 * found.random
    assert found.polynomial > 2 * found.random
    assert attack_success(attack, P, network, x, labels, seed=1) == found


@pytest.mark.parametrize("attack", [svd_attack, eigen_attack])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": draw(3, D + 1)}, r"images \[3, 7\] with labels \[3\]; expected \[n, 6\]"),
        ({"labels": torch.tensor([0, 1])}, r"labels \[2\]"),
        ({"labels": torch.tensor([0, 1, 4])}, "labels 0 to 4; expected 0 to 3"),
        ({"norm": 0.0}, "norm=0.0 of an attack"),
        ({"k": 0}, "k=0"),
        ({"k": 7}, "k=7"),
        ({"polynomial": approximate_mlp(draw(D, 3), draw(3, 1), "relu")}, "1 outputs"),
    ],
)
def test_errors_say_what_was_wrong(attack, changes, message, monkeypatch):
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for a user, without shape checks
    given = {"polynomial": polynomial(), "images": draw(3, D), "labels": torch.tensor([0, 1, 2]), "norm": 1.0}
    with pytest.raises(InputError, match=message):
        attack(**{**given, **changes})
