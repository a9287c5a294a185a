"""Ranges against oracles of their own: eigenvalues, a secular equation in numpy, brute force, ascent."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from analysis import certify, inputs_where
from bilinear_lm import BilinearTensor, InputError

D, H, OUT = 7, 11, 4


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def layer(constant=True, d=D, seed=0, dtype=torch.float64):
    W_gate, W_in, W_out, b_gate, b_in, b_out = (
        draw(*shape, seed=seed + at, dtype=dtype)
        for at, shape in enumerate([(d, H), (d, H), (H, OUT), (H,), (H,), (OUT,)])
    )
    if not constant:
        return BilinearTensor(W_gate, W_in, W_out)
    return BilinearTensor.from_layer(W_gate, W_in, W_out, b_gate, b_in, b_out)


def with_form(Q, b):
    """A layer with one output zQz + 2 b·z."""
    d = len(b)
    matrix = torch.zeros(d + 1, d + 1, dtype=torch.float64)
    matrix[:d, :d], matrix[:d, d], matrix[d, :d] = torch.as_tensor(Q), torch.as_tensor(b), torch.as_tensor(b)
    return BilinearTensor(torch.eye(d + 1).double(), matrix, torch.ones(d + 1, 1).double(), constant=True)


ONE = torch.ones(1, dtype=torch.float64)


def largest_on_sphere(Q, b, radius):
    """By the secular equation in numpy, to 1e-14; b has a part along the largest eigenvector."""
    values, vectors = np.linalg.eigh(Q)
    beta = vectors.T @ b

    def length(shift):
        return np.linalg.norm(beta / (shift + values[-1] - values)) - radius

    shift = brentq(length, abs(beta[-1]) / radius * (1 - 1e-12), np.linalg.norm(beta) / radius, xtol=1e-300)
    z = beta / (shift + values[-1] - values)
    return z @ (values * z) + 2 * beta @ z


def matrices(tensor, u):
    M = tensor.interaction_matrix(u).numpy()
    return (M[:-1, :-1], M[:-1, -1], M[-1, -1]) if tensor.constant else (M, np.zeros(len(M)), 0.0)


@pytest.mark.parametrize("method", ["dense", "krylov"])
def test_without_biases_the_ends_are_eigenvalues(method):
    tensor, u = layer(constant=False), draw(2, 3, OUT, seed=9)
    found = certify(tensor, u, method=method)
    values = np.linalg.eigvalsh(tensor.interaction_matrix(u).numpy()) * D
    assert found.low.shape == (2, 3)
    assert found.argmin.shape == (2, 3, D)
    assert np.allclose(found.high, values[..., -1], rtol=1e-10)
    assert np.allclose(found.low, values[..., 0], rtol=1e-10)
    ball = certify(tensor, u, over="ball", method=method)
    assert np.allclose(ball.high, values[..., -1].clip(min=0), rtol=1e-10)


@pytest.mark.parametrize("method", ["dense", "krylov"])
@pytest.mark.parametrize("over", ["sphere", "ball"])
def test_with_biases_by_the_secular_equation(method, over):
    for seed in range(5):
        tensor, u = layer(seed=seed), draw(OUT, seed=20 + seed)
        found = certify(tensor, u, over=over, method=method)
        Q, b, c = matrices(tensor, u)
        assert float(found.high) == pytest.approx(largest_on_sphere(Q, b, D**0.5) + c, rel=1e-8)
        assert float(found.low) == pytest.approx(c - largest_on_sphere(-Q, -b, D**0.5), rel=1e-8)
        for value, point in ((found.low, found.argmin), (found.high, found.argmax)):
            assert float(point.norm()) <= D**0.5 * (1 + 1e-12)
            assert float(tensor(point) @ u) == pytest.approx(float(value), rel=1e-10)


@pytest.mark.parametrize("method", ["dense", "krylov"])
def test_hard_cases(method):
    # No linear part along the largest eigenvalue 2, and a short one elsewhere: z = (±√(4 − 1/4), 0, 1/2).
    Q, b = np.diag([2.0, 0.5, 0.0]), np.array([0.0, 0.0, 1.0])
    found = certify(with_form(Q, b), ONE, radius=2.0, method=method)
    assert found.argmax.abs().tolist() == pytest.approx([(4 - 1 / 4) ** 0.5, 0, 0.5], abs=1e-12)
    assert float(found.high) == pytest.approx(2 * (4 - 1 / 4) + 1)
    # The same with the linear part long enough: it alone fills the sphere.
    found = certify(with_form(Q, 8 * b), ONE, radius=2.0, method=method)
    assert float(found.high) == pytest.approx(0 + 2 * 8 * 2)
    # A largest eigenvalue that is there twice.
    found = certify(with_form(np.diag([2.0, 2.0, 0.0]), b), ONE, radius=2.0, method=method)
    assert float(found.high) == pytest.approx(2 * (4 - 1 / 4) + 1)
    # All eigenvalues alike, and nothing at all.
    found = certify(with_form(np.eye(3), np.zeros(3)), ONE, radius=2.0, method=method)
    assert found.low.item() == pytest.approx(4)
    found = certify(with_form(np.zeros((3, 3)), np.zeros(3)), ONE, method=method)
    assert (found.low.item(), found.high.item()) == (0, 0)


def test_a_largest_eigenvalue_that_the_linear_part_does_not_see():
    values = np.concatenate([[1.004], np.linspace(-1, 1, 199)])
    b = np.where(values < 0.9, 0.02, 0.0)  # a point that is stationary for b alone comes early
    rotation = torch.linalg.qr(draw(200, 200, seed=1)).Q.numpy()
    tensor = with_form(rotation * values @ rotation.T, rotation @ b)
    dense, krylov = (certify(tensor, ONE, method=method) for method in ("dense", "krylov"))
    assert float(krylov.high) == pytest.approx(float(dense.high), rel=1e-10)
    left = 200 - np.sum((b / (1.004 - values + (b == 0))) ** 2)
    assert float(dense.high) == pytest.approx(1.004 * 200 + np.sum(b**2 / (1.004 - values + (b == 0))))
    assert left > 0


@pytest.mark.parametrize("method", ["dense", "krylov"])
def test_a_maximum_inside_the_ball(method):
    tensor = with_form(-np.diag([1.0, 2.0]), np.array([0.5, 0.5]))
    found = certify(tensor, ONE, over="ball", method=method)
    assert found.argmax.tolist() == pytest.approx([0.5, 0.25])
    assert float(found.high) == pytest.approx(0.5**2 + 0.5**2 / 2)
    assert float(certify(tensor, ONE, method=method).argmax.norm()) == pytest.approx(2**0.5)


@pytest.mark.parametrize("d", [1, 2])
def test_by_brute_force(d):
    angles = np.linspace(0, 2 * np.pi, 40_001)
    circle = np.array([[-1.0], [1.0]]) if d == 1 else np.stack([np.cos(angles), np.sin(angles)], axis=1)
    circle = torch.as_tensor(circle) * d**0.5
    tensor, u = layer(d=d), draw(6, OUT, seed=4)
    found, values = certify(tensor, u), tensor(circle) @ u.T  # a step of the circle costs 1e-8
    assert torch.allclose(found.high, values.amax(0), rtol=1e-7)
    assert torch.allclose(found.low, values.amin(0), rtol=1e-7)
    radii = torch.linspace(0, 1, 201).double()[:, None, None]
    inside = tensor((circle[:: 50 if d == 2 else 1] * radii).flatten(0, 1)) @ u.T
    ball = certify(tensor, u, over="ball")
    assert (inside <= ball.high + 1e-12).all()
    assert torch.allclose(ball.high, inside.amax(0), rtol=1e-3)


def test_the_krylov_way_on_a_wide_layer():
    tensor = layer(d=90)
    u = draw(12, OUT, seed=5)
    dense, krylov = (certify(tensor, u, method=method) for method in ("dense", "krylov"))
    assert torch.allclose(dense.high, krylov.high, rtol=1e-10)
    assert torch.allclose(dense.low, krylov.low, rtol=1e-10)
    assert krylov.residuals.max() < 2e-11
    single = certify(tensor.to(torch.float32), u.float(), method="krylov")
    assert single.high.dtype == torch.float32
    assert torch.allclose(single.high.double(), dense.high, rtol=1e-5)


def test_within_a_subspace():
    tensor, u = layer(), draw(OUT, seed=3)
    directions, values = draw(3, D, seed=8), torch.tensor([0.5, 0.0, -0.3]).double()
    z0, P = inputs_where(directions, values)
    assert torch.allclose(directions @ z0, values)
    assert torch.allclose(directions @ P.T, torch.zeros(3, D - 3).double(), atol=1e-12)
    found = certify(tensor, u, subspace=(z0 + 0.7 * P[0], P))
    Q, b, c = matrices(tensor, u)
    z, B = z0.numpy(), P.numpy()
    radius = (D - z @ z) ** 0.5
    expected = largest_on_sphere(B @ Q @ B.T, B @ (b + Q @ z), radius) + z @ Q @ z + 2 * b @ z + c
    assert float(found.high) == pytest.approx(expected, rel=1e-10)
    assert float(tensor(found.argmax) @ u) == pytest.approx(expected, rel=1e-10)
    assert torch.allclose(directions @ found.argmax, values)
    assert float(found.argmax.norm()) == pytest.approx(D**0.5)
    excluded = inputs_where(directions)
    without = certify(layer(constant=False), u, subspace=excluded)
    Q = layer(constant=False).interaction_matrix(u).numpy()
    B = excluded[1].numpy()
    assert float(without.high) == pytest.approx(np.linalg.eigvalsh(B @ Q @ B.T)[-1] * D)


def test_ascent_comes_close_and_never_beyond():
    tensor, u = layer(d=20), draw(5, OUT, seed=6)
    found = certify(tensor, u)
    z = draw(32, 5, 20, seed=7).requires_grad_()
    for _ in range(100):
        z = (20**0.5 * torch.nn.functional.normalize(z.detach(), dim=-1)).requires_grad_()
        values = (tensor(z) * u).sum(-1)
        (slope,) = torch.autograd.grad(values.sum(), z)
        z = z + 0.05 * slope
    reached = values.detach().amax(0)
    assert (reached <= found.high * (1 + 1e-12)).all()
    assert (reached >= found.high - 1e-3 * (found.high - found.low)).all()


def test_weights_of_any_size():
    tensor, u = layer(dtype=torch.float32), draw(OUT, seed=3).float()
    scaled = BilinearTensor(tensor.W_gate * 1e15, tensor.W_in * 1e15, tensor.W_out, constant=True)
    assert float(certify(scaled, u * 1e-25).high) == pytest.approx(
        float(certify(tensor, u).high) * 1e5, rel=1e-4
    )
    with pytest.raises(InputError, match="overflow"):
        certify(scaled, u * 1e30)


BAD = {
    "width of the direction": (lambda t: certify(t, draw(OUT + 1)), "width"),
    "precision": (lambda t: certify(t, draw(OUT).float()), "float32"),
    "no number": (lambda t: certify(t, draw(OUT) * torch.nan), "NaN"),
    "no finite weights": (
        lambda t: certify(BilinearTensor(t.W_gate * torch.inf, t.W_in, t.W_out, True), draw(OUT)),
        "W_gate holds NaN or infinity",
    ),
    "set": (lambda t: certify(t, draw(OUT), over="cube"), "sphere, ball"),
    "radius": (lambda t: certify(t, draw(OUT), radius=0.0), "radius=0"),
    "method": (lambda t: certify(t, draw(OUT), method="fast"), "dense, krylov"),
    "half precision": (lambda t: certify(t.to(torch.float16), draw(OUT).half()), "float16"),
    "width of z0": (lambda t: certify(t, draw(OUT), subspace=(draw(D + 1), torch.eye(D).double())), "z0"),
    "width of P": (lambda t: certify(t, draw(OUT), subspace=(draw(D), torch.eye(D + 1).double())), "P of"),
    "a basis": (lambda t: certify(t, draw(OUT), subspace=(draw(D), draw(2, D))), "not orthonormal"),
    "an empty subspace": (lambda t: certify(t, draw(OUT), subspace=(draw(D), draw(0, D))), "P of"),
    "too far a subspace": (
        lambda t: certify(t, draw(OUT), subspace=(10 * torch.eye(D)[0].double(), torch.eye(D)[1:].double())),
        "nearest point has norm 10",
    ),
    "dependent directions": (lambda t: inputs_where(torch.ones(2, D)), "span 1"),
    "too many directions": (lambda t: inputs_where(torch.eye(D)), "k from 1"),
    "values": (lambda t: inputs_where(torch.eye(D)[:2], torch.ones(3)), "expected as many"),
}


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("what", BAD)
def test_bad_input(what):
    call, said = BAD[what]
    with pytest.raises(InputError, match=said):
        call(layer())
