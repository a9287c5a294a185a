"""CP decomposition: narrower layers are recovered, and every reported number is the dense one."""

from dataclasses import replace

import pytest
import torch
from tensorly.decomposition import parafac

from analysis import as_squares, cp_decompose
from analysis.spectra.cp import EXACT
from bilinear_lm import BilinearTensor, InputError

D, OUT = 8, 6


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_layer(h, seed=0, d=D):
    return BilinearTensor(draw(d, h, seed=seed), draw(d, h, seed=seed + 1), draw(h, OUT, seed=seed + 2))


def disguised(narrow):
    """The same layer with twice the hidden units, none of them one of its own: wv = (w + a)v − av."""
    away = draw(*narrow.W_gate.shape, seed=77)
    return replace(
        narrow,
        W_gate=torch.cat([narrow.W_gate + away, -away], dim=1),
        W_in=narrow.W_in.repeat(1, 2),
        W_out=narrow.W_out.repeat(2, 1),
    )


@pytest.mark.parametrize("tied", [False, True], ids=["free", "tied"])
@pytest.mark.parametrize("constant", [False, True], ids=["plain", "constant"])
def test_recovers_a_layer_that_is_exactly_narrower(tied, constant):
    narrow = replace(random_layer(4), constant=constant)
    if tied:
        narrow = replace(narrow, W_in=narrow.W_gate)
    wide = disguised(narrow)
    found = cp_decompose(wide, 4, tied=tied, restarts=3)
    assert found.cosine > 1 - 1e-6
    assert found.tensor.cosine(wide) == pytest.approx(found.cosine)
    assert found.tensor.d_mlp == 4
    assert found.tensor.constant == constant
    assert found.tensor.cosine(narrow) > 1 - 1e-6
    assert torch.equal(found.tensor.W_gate, found.tensor.W_in) == tied


def test_recovers_the_hidden_units_themselves():
    # A CP decomposition of few terms is unique: each unit comes back up to scale and order (Kruskal 1977).
    narrow = random_layer(4, seed=5)
    found = cp_decompose(disguised(narrow), 4, restarts=3).tensor
    pairs = [
        (layer.W_gate[:, h].outer(layer.W_in[:, h]), layer.W_in[:, h].outer(layer.W_gate[:, h]))
        for layer in (narrow, found)
        for h in range(4)
    ]
    matrices = torch.stack([((a + b) / (a + b).norm()).flatten() for a, b in pairs])
    cosines = (matrices[:4] @ matrices[4:].T).abs()
    assert (cosines.amax(dim=1) > 1 - 1e-5).all()


@pytest.mark.parametrize("tied", [False, True], ids=["free", "tied"])
def test_reports_what_the_dense_tensors_say(tied):
    wide = random_layer(20)
    found = cp_decompose(wide, 6, tied=tied, rounds=5)
    lost = (wide.dense() - found.tensor.dense()).norm() / wide.dense().norm()
    assert found.relative_error == pytest.approx(float(lost), rel=1e-8)
    assert found.relative_error == pytest.approx((1 - found.cosine**2) ** 0.5, rel=1e-8)
    assert found.history[-1] == found.relative_error
    assert all(later <= earlier for earlier, later in zip(found.history, found.history[1:], strict=False))
    assert 1 < len(found.history) <= 6


def test_as_good_as_alternating_least_squares_on_the_dense_tensor():
    wide = random_layer(20)
    outputs, left, right = parafac(wide.dense().numpy(), 6, init="svd", n_iter_max=200)[1]
    theirs = BilinearTensor(*(torch.from_numpy(factor.copy()) for factor in (left, right, outputs.T)))
    assert cp_decompose(wide, 6).cosine >= wide.cosine(theirs)


def test_wider_is_closer_and_the_full_width_is_exact():
    wide = random_layer(10)
    errors = [cp_decompose(wide, h, rounds=3).relative_error for h in (1, 4, 7, 10)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < EXACT
    assert cp_decompose(wide, 20, tied=True).relative_error < EXACT


def test_hidden_units_may_be_permuted_scaled_and_swapped():
    wide, order = random_layer(12), torch.randperm(12)
    scale = draw(12, seed=9).exp()
    gate, into = wide.W_gate[:, order], wide.W_in[:, order]
    twin = BilinearTensor(into / scale, gate * scale, wide.W_out[order])
    for tied in (False, True):
        ours, theirs = (cp_decompose(layer, 5, tied=tied, rounds=1) for layer in (wide, twin))
        assert ours.history == pytest.approx(theirs.history, rel=1e-6)


def test_the_same_each_time_and_in_the_precision_given():
    wide = random_layer(12).to(torch.float32)
    ours, again = (cp_decompose(wide, 5, rounds=2, restarts=1, seed=3) for _ in range(2))
    assert ours.history == again.history
    assert torch.equal(ours.tensor.W_out, again.tensor.W_out)
    assert ours.tensor.dtype == torch.float32


def test_units_that_coincide_do_no_harm():
    # Rank 2 written with 6 units in three copies, one more without effect; asked for more than the rank.
    narrow = random_layer(2)
    W_gate, W_in = (factor.repeat(1, 3) for factor in (narrow.W_gate, narrow.W_in))
    W_gate[:, 5] = 0
    layer = BilinearTensor(W_gate, W_in, narrow.W_out.repeat(3, 1))
    for tied in (False, True):
        assert cp_decompose(layer, 6, tied=tied).cosine > 1 - 1e-6


def test_as_squares_is_the_same_layer():
    layer = random_layer(5)
    layer.W_gate[:, 2] = 0
    squares = as_squares(layer)
    assert squares.d_mlp == 10
    assert torch.equal(squares.W_gate, squares.W_in)
    assert torch.allclose(squares.dense(), layer.dense())


@pytest.mark.parametrize(
    ("layer", "d_mlp", "tied", "message"),
    [
        (random_layer(5), 6, False, "6 hidden units; expected 1 to 5"),
        (random_layer(5), 11, True, "11 hidden units; expected 1 to 10"),
        (random_layer(5), 0, False, "0 hidden units"),
        (BilinearTensor(draw(D, 5) * torch.nan, draw(D, 5), draw(5, OUT)), 2, False, "NaN or infinity"),
        (BilinearTensor(draw(D, 5) * 0, draw(D, 5), draw(5, OUT)), 2, False, "the tensor is 0"),
        (BilinearTensor(draw(2, D, 5), draw(2, D, 5), draw(2, 5, OUT)), 2, False, "one layer"),
    ],
)
def test_bad_input(layer, d_mlp, tied, message):
    with pytest.raises(InputError, match=message):
        cp_decompose(layer, d_mlp, tied=tied)
