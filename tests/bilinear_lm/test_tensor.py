"""The factored tensor against its dense self in float64, and the symmetries of a bilinear layer."""

import itertools

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bilinear_lm.numerics.memory
import bilinear_lm.tensor
from bilinear_lm import BilinearTensor, InputError
from bilinear_lm.numerics import contractions

D_IN, D_MLP, D_OUT = 5, 11, 4
BATCHES = [(), (2,), (2, 3)]
TOLERANCE = 1e-10


def make(batch=(), constant=False, d_in=D_IN, d_mlp=D_MLP, d_out=D_OUT, seed=0) -> BilinearTensor:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)

    factors = draw(d_in, d_mlp), draw(d_in, d_mlp), draw(d_mlp, d_out)
    if constant:
        return BilinearTensor.from_layer(*factors, draw(d_mlp), draw(d_mlp), draw(d_out))
    return BilinearTensor(*factors)


def oracle(tensor: BilinearTensor) -> torch.Tensor:
    """The dense symmetrised tensor, summed over hidden units in one go."""
    dense = torch.einsum("...ih,...jh,...ho->...oij", tensor.W_gate, tensor.W_in, tensor.W_out)
    return (dense + dense.mT) / 2


def draw(*shape, seed=1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_constant(x: torch.Tensor, tensor: BilinearTensor, value: float) -> torch.Tensor:
    return torch.nn.functional.pad(x, (0, 1), value=value) if tensor.constant else x


def assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= TOLERANCE


@pytest.fixture(params=itertools.product(BATCHES, [False, True]), ids=str)
def tensor(request) -> BilinearTensor:
    batch, constant = request.param
    return make(batch, constant)


@pytest.fixture(params=[2**28, 600], ids=["whole", "chunked"], autouse=True)
def chunk_bytes(request, monkeypatch):
    monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", request.param)


def test_dense(tensor):
    assert_close(tensor.dense(), oracle(tensor))


def test_call_is_the_layer(tensor):
    x = draw(*tensor.batch_shape, 4, 3, D_IN)
    full = with_constant(x, tensor, 1.0)
    n = len(tensor.batch_shape)
    rows = full.flatten(n, -2)
    expected = torch.einsum("...oij,...pi,...pj->...po", oracle(tensor), rows, rows)
    assert_close(tensor(x), expected.reshape(*x.shape[:-1], D_OUT))
    assert_close(tensor(full), tensor(x))


def test_call_with_biases_is_the_layer_with_biases():
    W_gate, W_in, W_out = draw(D_IN, D_MLP), draw(D_IN, D_MLP, seed=2), draw(D_MLP, D_OUT, seed=3)
    b_gate, b_in, b_out = draw(D_MLP, seed=4), draw(D_MLP, seed=5), draw(D_OUT, seed=6)
    x = draw(7, D_IN, seed=7)
    for gate, into, out in itertools.product([b_gate, None], [b_in, None], [b_out, None]):
        tensor = BilinearTensor.from_layer(W_gate, W_in, W_out, gate, into, out)
        zero = torch.zeros(1, dtype=torch.float64)
        hidden = (x @ W_gate + (zero if gate is None else gate)) * (
            x @ W_in + (zero if into is None else into)
        )
        assert_close(tensor(x), hidden @ W_out + (zero if out is None else out))
        assert tensor.constant == any(bias is not None for bias in (gate, into, out))


def test_call_with_two_points_broadcasts(tensor):
    batch = tensor.batch_shape
    x, y = draw(*batch, 4, 3, D_IN), draw(*batch, 3, D_IN, seed=2)
    full_x, full_y = (with_constant(points, tensor, 1.0) for points in (x, y))
    n = len(batch)
    full_y = full_y.unsqueeze(n).expand(full_x.shape)
    expected = torch.einsum(
        "...oij,...pi,...pj->...po", oracle(tensor), full_x.flatten(n, -2), full_y.flatten(n, -2)
    )
    assert_close(tensor(x, y), expected.reshape(*x.shape[:-1], D_OUT))
    assert_close(tensor(x, x), tensor(x))


@pytest.mark.parametrize("free", [(), (3,), (2, 3)])
def test_interaction_matrix(tensor, free):
    u = draw(*tensor.batch_shape, *free, D_OUT)
    n = len(tensor.batch_shape)
    expected = torch.einsum("...ko,...oij->...kij", u.reshape(*tensor.batch_shape, -1, D_OUT), oracle(tensor))
    found = tensor.interaction_matrix(u)
    assert_close(found, expected.reshape(*u.shape[:-1], tensor.d_in, tensor.d_in))
    assert torch.equal(found, found.mT)
    assert found.shape[n : n + len(free)] == free


def test_matvec(tensor):
    batch = tensor.batch_shape
    u, v = draw(*batch, 6, 1, D_OUT), draw(*batch, 3, D_IN, seed=2)
    matrices = tensor.interaction_matrix(u)
    full = with_constant(v, tensor, 0.0)
    expected = (matrices @ full.unsqueeze(len(batch)).unsqueeze(-1)).squeeze(-1)
    assert_close(tensor.matvec(u, v), expected)


# Few and many of each, so that every order of contraction is the cheapest once.
@pytest.mark.parametrize(
    ("n", "m", "directions"), [(2, 3, 1), (2, 3, 40), (60, 50, 1), (70, 1, 2), (1, 70, 2)]
)
def test_pairwise(tensor, n, m, directions):
    batch = tensor.batch_shape
    u = draw(*batch, directions, D_OUT)
    left, right = draw(*batch, n, D_IN, seed=2), draw(*batch, m, D_IN, seed=3)
    matrices = torch.einsum("...ko,...oij->...kij", u, oracle(tensor))
    full_left, full_right = (with_constant(side, tensor, 0.0).unsqueeze(-3) for side in (left, right))
    assert_close(tensor.pairwise(u, left, right), full_left @ matrices @ full_right.mT)
    assert_close(tensor.pairwise(u, left), full_left @ matrices @ full_left.mT)
    assert_close(tensor.pairwise(u[..., 0, :], left), (full_left @ matrices @ full_left.mT)[..., 0, :, :])


def test_every_order_of_pairwise_agrees():
    tensor = make()
    u, left, right = draw(3, D_OUT), draw(6, D_IN, seed=2), draw(7, D_IN, seed=3)
    expected = torch.einsum("ko,oij,ni,mj->knm", u, oracle(tensor), left, right)
    for order in ("hidden", "matrix", "matvec"):
        result = torch.full((3, 6, 7), torch.nan, dtype=torch.float64)
        getattr(contractions, f"pairwise_by_{order}")(tensor, u, left, right, result)
        assert_close(result, expected)


def test_change_basis(tensor):
    inputs, outputs = draw(8, D_IN), draw(9, D_OUT, seed=2)
    full = torch.block_diag(inputs, torch.ones(1, 1, dtype=torch.float64)) if tensor.constant else inputs
    found = tensor.change_basis(inputs, outputs)
    assert_close(found.dense(), torch.einsum("ao,...oij,bi,cj->...abc", outputs, oracle(tensor), full, full))
    assert found.constant == tensor.constant
    assert_close(
        tensor.change_basis(outputs=outputs).dense(),
        torch.einsum("ao,...oij->...aij", outputs, oracle(tensor)),
    )
    assert_close(tensor.change_basis().dense(), oracle(tensor))


def test_inner_norm_cosine(tensor):
    other = make(tensor.batch_shape, tensor.constant, d_mlp=7, seed=9)
    ours, theirs = oracle(tensor).flatten(-3), oracle(other).flatten(-3)
    assert_close(tensor.inner(other), (ours * theirs).sum(-1))
    assert_close(tensor.norm(), ours.norm(dim=-1))
    assert_close(tensor.cosine(other), torch.cosine_similarity(ours, theirs, dim=-1))
    assert_close(tensor.cosine(tensor), torch.ones(tensor.batch_shape, dtype=torch.float64))


def test_to_keeps_everything_but_the_precision():
    tensor = make(constant=True).to(torch.float32)
    assert tensor.dtype == torch.float32
    assert tensor.constant
    assert (tensor.d_in, tensor.d_mlp, tensor.d_out) == (D_IN + 1, D_MLP + 1, D_OUT)


def test_gradients_reach_the_factors():
    tensor = make()
    W_gate = tensor.W_gate.clone().requires_grad_()
    tracked = BilinearTensor(W_gate, tensor.W_in, tensor.W_out)
    u = draw(2, D_OUT)
    for result in (tracked.interaction_matrix(u), tracked.pairwise(u, draw(3, D_IN)), tracked.norm()):
        (gradient,) = torch.autograd.grad(result.sum(), W_gate)
        assert gradient.abs().sum() > 0


factor = st.floats(0.1, 10.0) | st.floats(-10.0, -0.1)


@settings(deadline=None, max_examples=25)
@given(data=st.data(), constant=st.booleans(), seed=st.integers(0, 2**16))
def test_hidden_units_can_be_permuted_scaled_and_swapped(data, constant, seed):
    tensor = make(constant=constant, seed=seed)
    order = torch.tensor(data.draw(st.permutations(range(tensor.d_mlp))))
    scale = torch.tensor(
        data.draw(st.lists(factor, min_size=tensor.d_mlp, max_size=tensor.d_mlp)), dtype=torch.float64
    )
    swap = torch.tensor(data.draw(st.lists(st.booleans(), min_size=tensor.d_mlp, max_size=tensor.d_mlp)))
    gate, into, out = tensor.W_gate * scale, tensor.W_in / scale, tensor.W_out
    gate, into = torch.where(swap, into, gate), torch.where(swap, gate, into)
    twin = BilinearTensor(gate[:, order], into[:, order], out[order], constant=constant)
    u, x, y = draw(3, D_OUT), draw(3, D_IN, seed=2), draw(3, D_IN, seed=3)
    assert_close(twin.dense(), tensor.dense())
    assert_close(twin(x, y), tensor(x, y))
    assert_close(twin.matvec(u, x), tensor.matvec(u, x))
    assert_close(twin.pairwise(u, x, y), tensor.pairwise(u, x, y))
    assert abs(twin.cosine(tensor).item() - 1) <= TOLERANCE


@settings(deadline=None, max_examples=25)
@given(a=factor, b=factor, seed=st.integers(0, 2**16))
def test_bilinear_and_symmetric(a, b, seed):
    tensor = make(seed=seed)
    x, y, z = draw(D_IN), draw(D_IN, seed=2), draw(D_IN, seed=3)
    assert (tensor(x, y) - tensor(y, x)).abs().max() <= TOLERANCE
    assert (tensor(a * x + b * z, y) - a * tensor(x, y) - b * tensor(z, y)).abs().max() <= 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t(draw(3, D_IN + 2)), r"x: got shape \[3, 7\]; expected a last axis of 5"),
        (lambda t: t.interaction_matrix(draw(D_OUT + 1)), r"u: got shape \[5\]; expected a last axis of 4"),
        (lambda t: t.pairwise(draw(D_OUT), draw(3, 2)), r"left: got shape \[3, 2\]"),
        (lambda t: t.change_basis(outputs=draw(3, 2)), r"outputs: got shape \[3, 2\]"),
        (lambda t: t.inner(make(d_out=3)), "expected the same"),
        (lambda t: t.inner(make(constant=True, d_in=D_IN - 1)), "expected the same"),
        (lambda t: t.dense(max_bytes=799), r"needs 800 bytes, more than max_bytes=799"),
    ],
)
def test_errors_say_what_was_got_and_expected(call, message):
    with pytest.raises(InputError, match=message):
        call(make())


def test_factors_that_do_not_fit(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for a user, without shape checks
    tensor = make()
    with pytest.raises(InputError, match=r"W_gate \[5, 11\], W_in \[5, 10\]"):
        BilinearTensor(tensor.W_gate, tensor.W_in[:, 1:], tensor.W_out)


def test_batched_tensor_wants_its_batch_axes():
    with pytest.raises(InputError, match=r"x: got shape \[3, 5\]; expected the batch axes \[2\]"):
        make((2,))(draw(3, D_IN))


@pytest.mark.parametrize("numbers", [1, 2**18], ids=["in parts", "whole"])
def test_many_interaction_matrices_share_their_products(numbers, monkeypatch):
    monkeypatch.setattr(contractions, "SHARED_NUMBERS", numbers)
    wide = BilinearTensor(draw(D_IN, 150), draw(D_IN, 150, seed=1), draw(150, D_OUT, seed=2))
    u = draw(contractions.SHARED, D_OUT, seed=3)
    matrices = wide.interaction_matrix(u)
    assert_close(matrices, torch.einsum("ko,oij->kij", u, wide.dense()))
    assert_close(matrices[:3], wide.interaction_matrix(u[:3]))
    assert torch.equal(matrices, matrices.mT)
