"""Interactions between features against einsum on the dense tensor in float64, and against scipy."""

import itertools

import numpy as np
import pytest
import scipy.stats
import torch

import analysis.features.interactions
import analysis.features.layer
from analysis import (
    FeatureLayer,
    effective_rank,
    feature_layer,
    interaction_statistics,
    strongest_interactions,
    strongest_submatrix,
)
from analysis.features.interactions import n_pairs
from analysis.features.screening import pairs_in_reach
from analysis.features.submatrix import pairs_that_hold, submatrix_of_pairs
from bilinear_lm import BilinearTensor, Dictionary, InputError, Site, mlp_tensor

WIDTH, H, OUT, N_IN, N_OUT = 6, 10, 5, 17, 9


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(biases=True, width=WIDTH, h=H, n_in=N_IN):
    factors = draw(width, h), draw(width, h, seed=1), draw(h, OUT, seed=2)
    if biases:
        factors += draw(h, seed=3), draw(h, seed=4), draw(OUT, seed=5)
    tensor = BilinearTensor.from_layer(*factors)
    return FeatureLayer(tensor, draw(n_in, width, seed=6), draw(N_OUT, OUT, seed=7), draw(width, seed=8))


def dense(features):
    """B̃_abc, by one einsum over the dense tensor."""
    width = features.inputs.shape[1]
    B = features.tensor.dense()[:, :width, :width]
    return torch.einsum("ai,ijk,bj,ck->abc", features.outputs, B, features.inputs, features.inputs)


def brute_force(features, outputs, k):
    B = dense(features)
    pairs = itertools.product(outputs, *2 * [range(features.n_in)])
    values = [(a, i, j, float(B[a, i, j]) * (1 + (i < j))) for a, i, j in pairs if i <= j]
    return sorted(values, key=lambda item: (-abs(item[3]), item[:3]))[:k]


@pytest.fixture(params=[1, 4, 512], ids=["rows of 1", "rows of 4", "whole"])
def strips(request, monkeypatch):
    monkeypatch.setattr(analysis.features.layer, "STRIP_ROWS", request.param)


# Widths, hidden units and features for which each order of contraction is the cheapest.
ORDERS = {"matrix": (6, 10, 60), "hidden": (30, 6, 8)}


@pytest.mark.parametrize("order", ORDERS)
def test_strips_are_the_upper_half_by_every_order(order, strips):
    width, h, n_in = ORDERS[order]
    features = make(width=width, h=h, n_in=n_in)
    costs = features.multiplications(features.n_out)
    assert min(costs, key=costs.get) == order
    expected, upper = dense(features)[0], torch.zeros(n_in, n_in, dtype=torch.float64)
    for start, strip in features.strips(features.outputs[0]):
        upper[start : start + len(strip), start:] = strip
    assert torch.allclose(upper.triu(), expected.triu(), atol=1e-9)


def test_parts_against_the_dense_tensor():
    features, B = make(), dense(make())
    u = features.outputs
    assert torch.allclose(features.matrix(u[3]), B[3])
    assert torch.allclose(features.self_part(u), B.diagonal(dim1=1, dim2=2))
    point = torch.cat([features.origin, features.origin.new_ones(1)])
    full = torch.einsum("ai,ijk->ajk", u, features.tensor.dense())
    assert torch.allclose(features.constant(u), torch.einsum("ajk,j,k->a", full, point, point))
    padded = torch.nn.functional.pad(features.inputs, (0, 1))
    assert torch.allclose(features.linear(u), 2 * torch.einsum("ajk,j,bk->ab", full, point, padded))


@pytest.mark.parametrize("biases", [True, False])
def test_all_interactions_sum_to_the_layer(biases):
    features = make(biases)
    code = draw(20, N_IN, seed=9).relu()
    x = features.origin + code @ features.inputs
    for output, u in enumerate(features.outputs):
        found = strongest_interactions(features, [output], n_pairs(N_IN))
        quadratic = found.contributions(code).sum(-1)
        total = features.constant(u) + code @ features.linear(u) + quadratic
        assert torch.allclose(total, features.tensor(x) @ u)


def test_without_biases_or_origin_there_is_no_linear_part():
    features = make(biases=False)
    features = FeatureLayer(features.tensor, features.inputs, features.outputs)
    assert not features.linear(features.outputs).any()
    assert not features.constant(features.outputs).any()


@pytest.mark.parametrize("outputs", [[2], [8, 0, 3], None], ids=["one", "some", "all"])
@pytest.mark.parametrize("k", [1, 7, n_pairs(N_IN)])
def test_strongest_against_brute_force(outputs, k, strips):
    features = make()
    found = strongest_interactions(features, outputs, k)
    expected = brute_force(features, range(N_OUT) if outputs is None else outputs, k)
    assert [(item.output, item.left, item.right) for item in found] == [item[:3] for item in expected]
    assert found.values.tolist() == pytest.approx([item[3] for item in expected])
    assert torch.allclose(features.coefficients(found.outputs, found.left, found.right), found.values)


@pytest.mark.parametrize("rows", [1, 4, 128], ids=["tiles of 1", "tiles of 4", "one tile"])
@pytest.mark.parametrize("k", [1, 7, 100, n_pairs(N_IN)])
def test_tiles_against_brute_force(rows, k, monkeypatch):
    monkeypatch.setattr(analysis.features.interactions, "_tile_size", lambda features: rows)
    features = make()
    # Features of very different sizes, so that most tiles are out of reach.
    sizes = torch.logspace(-3, 1, N_IN, dtype=torch.float64)[torch.randperm(N_IN)]
    features = FeatureLayer(features.tensor, features.inputs * sizes.unsqueeze(1), features.outputs)
    found = strongest_interactions(features, None, k)
    expected = brute_force(features, range(N_OUT), k)
    assert [(item.output, item.left, item.right) for item in found] == [item[:3] for item in expected]
    assert found.values.tolist() == pytest.approx([item[3] for item in expected])


def test_tiles_out_of_reach_are_not_computed(monkeypatch):
    monkeypatch.setattr(analysis.features.interactions, "_tile_size", lambda features: 1)
    screened = []
    monkeypatch.setattr(
        analysis.features.interactions,
        "pairs_in_reach",
        lambda left, right, *rest: screened.append(len(right.steps)) or pairs_in_reach(left, right, *rest),
    )
    sizes = torch.tensor([1e-3, 5, 1e-3, 1e-3], dtype=torch.float64).unsqueeze(1)
    features = FeatureLayer(make(False).tensor, draw(4, WIDTH) * sizes, draw(1, OUT))
    (found,) = strongest_interactions(features, k=1)
    assert (found.left, found.right) == (1, 1)
    assert screened == [1]


def test_no_entry_is_beyond_the_reach_of_its_tile():
    features = make()
    for u in features.outputs:
        left, right = features.factors(u)
        values = 2 * (left @ right.T).abs()
        reach = analysis.features.interactions._reach(left.norm(dim=1), right.norm(dim=1), 1)
        assert bool((values <= torch.tensor(reach, dtype=torch.float64)).all())


def test_equal_values_come_in_the_order_of_their_features(strips):
    # Every entry is 1: all cross interactions have value 2, the diagonal has 1.
    one = torch.ones(1, 1, dtype=torch.float64)
    features = FeatureLayer(BilinearTensor(one, one, one), one.expand(5, 1), one.expand(2, 1))
    found = [(item.output, item.left, item.right) for item in strongest_interactions(features, k=21)]
    cross = [(a, i, j) for a in range(2) for i, j in itertools.combinations(range(5), 2)]
    assert found == [*cross, (0, 0, 0)]


def test_zero_interactions_are_counted_like_others():
    features = FeatureLayer(make(False).tensor, draw(4, WIDTH), torch.zeros(1, OUT, dtype=torch.float64))
    assert strongest_interactions(features, k=10).values.tolist() == [0.0] * 10


def test_submatrix_holds_the_strongest_features():
    features, k = make(), 6
    by_strength = strongest_submatrix(features, 4, k, order="strength")
    flat = [feature for item in brute_force(features, [4], 200) for feature in item[1:3]]
    assert by_strength.features.tolist() == list(dict.fromkeys(flat))[:k]
    by_likeness = strongest_submatrix(features, 4, k)
    assert sorted(by_likeness.features.tolist()) == sorted(by_strength.features.tolist())
    for found in (by_strength, by_likeness):
        assert torch.allclose(found.matrix, dense(features)[4][found.features][:, found.features])
    assert len(strongest_submatrix(features, 0, N_IN).features) == N_IN
    assert len(strongest_submatrix(features, 0, 1).features) == 1


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_so_many_pairs_hold_so_many_features_and_fewer_may_not(k):
    """Over all sets of pairs of four features."""
    pairs = list(itertools.combinations_with_replacement(range(4), 2))

    def fewest(n):
        return min(len(set().union(*chosen)) for chosen in itertools.combinations(pairs, n))

    assert fewest(pairs_that_hold(k)) == k
    assert fewest(pairs_that_hold(k) - 1) == k - 1


def test_submatrix_of_given_pairs():
    features = make()
    found = submatrix_of_pairs(features, 3, torch.tensor([4, 4, 1]), torch.tensor([4, 9, 2]), 3)
    assert found.output == 3
    assert found.features.tolist() == [4, 9, 1]
    assert torch.allclose(found.matrix, dense(features)[3][found.features][:, found.features])


def test_submatrix_sets_alike_features_side_by_side():
    # Features 0, 2, 4 interact with each other, and so do 1, 3, 5; no others.
    factor = torch.eye(2, dtype=torch.float64)[torch.arange(6) % 2]
    tensor = BilinearTensor(factor, factor, torch.ones(2, 1, dtype=torch.float64))
    eye = torch.eye(6, dtype=torch.float64)
    found = strongest_submatrix(FeatureLayer(tensor, eye, torch.ones(1, 1, dtype=torch.float64)), 0, 6)
    parity = (found.features % 2).tolist()
    assert parity in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])


def test_statistics_against_scipy(strips):
    features = make()
    found = interaction_statistics(features, top=3, n_deviations=1.5)
    B = dense(features)
    Q = features.tensor.interaction_matrix(features.outputs)
    values = torch.linalg.eigvalsh(Q)
    assert torch.allclose(found.strength.double(), Q.flatten(1).norm(dim=1), rtol=1e-6)
    assert torch.allclose(found.effective_rank.double(), effective_rank(values), rtol=1e-6)
    squares = values.square().sort(dim=1, descending=True).values
    shares = squares.cumsum(1)[:, :3] / squares.sum(1, keepdim=True)
    assert torch.allclose(found.mass.double(), shares, rtol=1e-6)
    for output in range(N_OUT):
        entries = B[output].flatten().numpy()
        assert float(found.kurtosis[output]) == pytest.approx(scipy.stats.kurtosis(entries), abs=1e-5)
        assert float(found.deviation[output]) == pytest.approx(np.std(entries), rel=1e-6)
        pairs = B[output][torch.triu(torch.ones(N_IN, N_IN)).bool()].numpy()
        far = np.abs(pairs - entries.mean()) > 1.5 * entries.std()
        assert int(found.outliers[output]) == far.sum()
    assert found.rows()[2]["output"] == 2
    assert len(found.rows()[2]["mass"]) == 3


def test_statistics_of_equal_entries_are_finite():
    one = torch.ones(1, 1, dtype=torch.float64)
    features = FeatureLayer(
        BilinearTensor(one, one, one), one.expand(5, 1), torch.tensor([[0.0], [0.3]]).double()
    )
    found = interaction_statistics(features, top=1)
    assert found.kurtosis.tolist() == found.deviation.tolist() == [0.0, 0.0]
    assert found.outliers.tolist() == [0, 0]
    assert found.mass.tolist() == [[0.0], [1.0]]


def dictionary(width=16, n_feat=20, seed=0, site=None, **kwargs):
    encoder = draw(width, n_feat, seed=seed).float()
    return Dictionary(encoder, draw(n_feat, width, seed=seed + 1).float(), site=site, **kwargs)


@pytest.mark.parametrize("point", ["mlp-in", "resid-mid"])
def test_feature_layer_of_a_model_folds_the_norm_only_behind_it(make_model, point):
    model = make_model(mlp_bias=True)
    inputs = dictionary(site=Site(1, point), b_dec=draw(16, seed=3).float())
    outputs = dictionary(seed=5, site=Site(1, "mlp-out"))
    features = feature_layer(model, 1, inputs, outputs)
    expected = mlp_tensor(model, 1, fold_norm=point == "resid-mid")
    assert torch.equal(features.tensor.W_gate, expected.W_gate)
    assert torch.equal(features.inputs, inputs.decoder)
    assert torch.equal(features.outputs, outputs.encoder.T)
    assert torch.equal(features.origin, inputs.b_dec)


MLP_IN, MLP_OUT = Site(1, "mlp-in"), Site(1, "mlp-out")
GATE = draw(16, 20).float()


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"site": Site(0, "mlp-in")}, {"site": MLP_OUT}, "belongs to 0-mlp-in; expected 1-mlp-in"),
        ({"site": MLP_OUT}, {"site": MLP_OUT}, "input dictionary belongs to 1-mlp-out"),
        ({"site": MLP_IN}, {"site": MLP_IN}, "output dictionary belongs to 1-mlp-in"),
        ({}, {"site": MLP_OUT}, "does not tell its site"),
        ({"site": MLP_IN, "width": 15}, {"site": MLP_OUT}, "inputs .*last axis of 16"),
        ({"site": MLP_IN}, {"site": MLP_OUT, "width": 15}, "outputs .*last axis of 16"),
        ({"site": MLP_IN}, {"site": MLP_OUT, "encoder_gate": GATE}, "bilinear encoder"),
    ],
)
def test_a_dictionary_that_does_not_fit(make_model, inputs, outputs, message):
    with pytest.raises(InputError, match=message):
        feature_layer(make_model(), 1, dictionary(**inputs), dictionary(**outputs))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda f: strongest_interactions(f, [N_OUT]), "output feature 9 does not exist; expected 0 to 8"),
        (
            lambda f: strongest_interactions(f, [0], n_pairs(N_IN) + 1),
            "k=154 interactions; expected 1 to the 153",
        ),
        (lambda f: strongest_interactions(f, [0], 0), "k=0"),
        (lambda f: strongest_submatrix(f, 0, N_IN + 1), "18 features; expected 1 to n_in=17"),
        (lambda f: interaction_statistics(f, top=8), "top=8 eigenvalues; expected 1 to d_in=7"),
        (lambda f: interaction_statistics(f, [], top=1), "no output features"),
        (lambda f: interaction_statistics(f, top=1, n_deviations=0.0), "n_deviations=0"),
        (lambda f: f.matrix(f.outputs[0], max_bytes=100), "needs 2,312 bytes"),
        (lambda f: f.along(f.outputs * torch.nan), "NaN or infinity in outputs"),
    ],
)
def test_bad_input(act, message):
    with pytest.raises(InputError, match=message):
        act(make())
