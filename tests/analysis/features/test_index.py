"""The strongest interactions from both sides, against the dense tensor and `strongest_interactions`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import analysis.features.layer
from analysis import FeatureLayer, strongest_interactions
from analysis.features.index import interaction_index
from analysis.features.interactions import n_pairs
from bilinear_lm import BilinearTensor, InputError

WIDTH, H, OUT = 6, 10, 5


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(n_in=17, n_out=9, seed=0):
    factors = (draw(WIDTH, H, seed=seed), draw(WIDTH, H, seed=seed + 1), draw(H, OUT, seed=seed + 2))
    biases = (draw(H, seed=seed + 3), draw(H, seed=seed + 4), draw(OUT, seed=seed + 5))
    tensor = BilinearTensor.from_layer(*factors, *biases)
    return FeatureLayer(tensor, draw(n_in, WIDTH, seed=seed + 6), draw(n_out, OUT, seed=seed + 7))


def all_values(features):
    """[n_out, n_in, n_in]: Q_ii on the diagonal, 2 Q_ij beside it, by one einsum over the dense tensor."""
    B = features.tensor.dense()[:, :WIDTH, :WIDTH]
    Q = torch.einsum("ai,ijk,bj,ck->abc", features.outputs, B, features.inputs, features.inputs)
    return Q * (2 - torch.eye(features.n_in, dtype=Q.dtype))


def strongest_of_input(values, feature, k):
    """(output, partner, value) of an input feature, by sorting all of them."""
    rows = [
        (output, partner, float(values[output, feature, partner]))
        for output in range(values.shape[0])
        for partner in range(values.shape[1])
    ]
    return sorted(rows, key=lambda row: -abs(row[2]))[:k]


@pytest.fixture(params=[1, 4, 512], ids=["rows of 1", "rows of 4", "whole"])
def strips(request, monkeypatch):
    monkeypatch.setattr(analysis.features.layer, "STRIP_ROWS", request.param)


@pytest.mark.parametrize(("k_out", "k_in"), [(1, 1), (3, 7), (10, 40), (1000, 1000)])
def test_against_the_dense_tensor(strips, k_out, k_in):
    features = make()
    values = all_values(features)
    index = interaction_index(features, k_out, k_in)
    for output in range(features.n_out):
        expected = strongest_interactions(features, [output], min(k_out, n_pairs(features.n_in)))
        found = index.into(output)
        assert [(item.output, item.left, item.right) for item in found] == [
            (item.output, item.left, item.right) for item in expected
        ]
        torch.testing.assert_close(found.values, expected.values)
    for feature in range(features.n_in):
        expected = strongest_of_input(values, feature, k_in)
        found = list(index.of(feature))
        assert len(found) == len(expected)
        for item, (output, partner, value) in zip(found, expected, strict=True):
            assert item.output == output
            assert sorted((feature, partner)) == [item.left, item.right]
            assert item.value == pytest.approx(value)


@settings(deadline=None)
@given(n_in=st.integers(1, 12), n_out=st.integers(1, 6), seed=st.integers(0, 1000), k=st.integers(1, 6))
def test_both_sides_tell_the_same_interactions(n_in, n_out, seed, k):
    features = make(n_in, n_out, seed)
    index = interaction_index(features, n_pairs(n_in), n_out * n_in)
    from_outputs = {(item.output, item.left, item.right) for a in range(n_out) for item in index.into(a)}
    from_inputs = {(item.output, item.left, item.right) for i in range(n_in) for item in index.of(i)}
    assert from_outputs == from_inputs
    assert len(from_outputs) == n_out * n_pairs(n_in)
    few = interaction_index(features, k, k)
    assert list(few.into(0)) == list(index.into(0))[:k]


def test_what_is_not_there_is_left_out():
    """An input feature of zeros takes part in nothing."""
    features = make()
    features.inputs[3] = 0
    index = interaction_index(features, n_pairs(17), 200)
    assert len(index.of(3)) == 0
    assert all(3 not in (item.left, item.right) for item in index.into(0))
    assert len(index.into(0)) == n_pairs(16)


def test_float32_with_wide_and_narrow_features():
    generator = torch.Generator().manual_seed(0)
    factors = (torch.randn(*shape, generator=generator) for shape in ((8, 12), (8, 12), (12, 7)))
    features = FeatureLayer(
        BilinearTensor(*factors),
        torch.randn(300, 8, generator=generator),
        torch.randn(20, 7, generator=generator),
    )
    index = interaction_index(features, 20, 20)
    for output in range(20):
        expected = strongest_interactions(features, [output], 20)
        assert index.into(output).values.tolist() == pytest.approx(expected.values.tolist(), rel=1e-4)


@pytest.mark.parametrize("wrong", [{"k_out": 0}, {"k_in": 0}])
def test_no_interactions_asked_for(wrong):
    with pytest.raises(InputError, match="expected at least 1 of each"):
        interaction_index(make(), **wrong)


def test_features_that_do_not_exist():
    index = interaction_index(make())
    with pytest.raises(InputError, match="output feature 9 does not exist; expected 0 to 8"):
        index.into(9)
    with pytest.raises(InputError, match="input feature -1 does not exist; expected 0 to 16"):
        index.of(-1)
