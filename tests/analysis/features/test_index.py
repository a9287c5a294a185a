"""The strongest interactions from both sides, against the dense tensor and `strongest_interactions`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import analysis.features.index
import analysis.features.submatrix
import analysis.features.tiles
from analysis import FeatureLayer, strongest_interactions, strongest_submatrix
from analysis.features.index import interaction_index
from analysis.features.interactions import n_pairs
from analysis.features.screening import Screen, products_of
from analysis.features.submatrix import pairs_that_hold, submatrices_of_pairs
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
    monkeypatch.setattr(analysis.features.tiles, "ROWS", request.param)


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


def ranked(items):
    """Values with their places, as (value, *places), strongest first, equal ones by place."""
    return sorted(items, key=lambda item: (-abs(item[0]), item[1:]))


def all_of_sums(features):
    """(value, output, left, right) of all pairs left ≤ right, by the same sums in float64."""
    left, right = torch.triu_indices(features.n_in, features.n_in)
    screen = Screen(features, whole=False)
    for outputs, products in analysis.features.index._along(screen, range(1), 32):
        for row, output in enumerate(outputs):
            values = products.values(left + row * features.n_in, right).tolist()
            yield from zip(values, [output] * len(left), left.tolist(), right.tolist(), strict=True)


def require_exhaustive(features, k_out, k_in):
    """The index holds what a search of all pairs finds, to the last bit and in the same order."""
    pairs = list(all_of_sums(features))
    index = interaction_index(features, k_out, k_in)
    for output in range(features.n_out):
        expected = ranked(pair for pair in pairs if pair[1] == output)[:k_out]
        left, right = index.left[output].tolist(), index.right[output].tolist()
        assert list(zip(index.values[output].tolist(), left, right, strict=True)) == [
            (value, left, right) for value, _, left, right in expected
        ]
    for feature in range(features.n_in):
        own = [
            (value, output, left + right - feature)
            for value, output, left, right in pairs
            if feature in (left, right) and value
        ]
        found = zip(
            index.reach_values[feature].tolist(),
            index.reached[feature].tolist(),
            index.partner[feature].tolist(),
            strict=True,
        )
        assert [item for item in found if item[0]] == ranked(own)[:k_in]


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 40),
    n_out=st.integers(1, 5),
    k_out=st.integers(1, 30),
    k_in=st.integers(1, 60),
    whole=st.booleans(),
    tile=st.sampled_from([(3, 9), (8, 256), (256, 2**20)]),
    exponent=st.integers(-12, 12),
    data=st.data(),
)
def test_exhaustive_for_rows_of_few_numbers(n, n_out, k_out, k_in, whole, tile, exponent, data):
    """Rows of small whole numbers have many ties, equal rows, rows of zeros, and ends of both signs."""
    numbers = data.draw(st.lists(st.integers(-2, 2), min_size=4 * n, max_size=4 * n))
    inputs = torch.tensor(numbers, dtype=torch.float32).reshape(n, 4) * 2.0**exponent
    ends = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.5], [1.0, 0.0], [0.0, 3.0]])[:n_out]
    factors = (draw(4, 6, seed=1).round(), draw(4, 6, seed=2).round(), draw(6, 2, seed=3).round())
    features = FeatureLayer(BilinearTensor(*(part.float() for part in factors)), inputs, ends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis.features.tiles, "ROWS", tile[0])
        patch.setattr(analysis.features.tiles, "ENTRIES", tile[1])
        patch.setattr(analysis.features.index, "Screen", lambda features, _: Screen(features, whole))
        require_exhaustive(features, min(k_out, n_pairs(n)), k_in)


@pytest.mark.parametrize("whole", [True, False], ids=["whole numbers", "plain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", ["some zero", "any size", "peaks", "hidden units"])
def test_exhaustive_for_rows_of_any_numbers(case, dtype, whole, monkeypatch):
    h = 200 if case != "hidden units" else 3
    rows = draw(70, 16, seed=4)
    if case == "some zero":
        rows[::3] = 0
    elif case == "any size":
        rows *= torch.logspace(-9, 3, 70, dtype=rows.dtype)[torch.randperm(70)].unsqueeze(1)
    elif case == "peaks":
        rows = rows * 0.001 + torch.eye(16, dtype=rows.dtype).repeat(5, 1)[:70]
    factors = (draw(16, h, seed=1), draw(16, h, seed=2), draw(h, 5, seed=3))
    tensor = BilinearTensor(*(part.to(dtype) for part in factors))
    features = FeatureLayer(tensor, rows.to(dtype), draw(6, 5, seed=10).to(dtype))
    monkeypatch.setattr(analysis.features.tiles, "ROWS", 32)
    monkeypatch.setattr(analysis.features.tiles, "ENTRIES", 2**13)
    monkeypatch.setattr(analysis.features.index, "Screen", lambda features, _: Screen(features, whole))
    require_exhaustive(features, 25, 15)


def test_no_tile_is_larger_than_allowed(monkeypatch):
    """Of 150 features, whose matrices have 22,500 entries, 2^12 are computed at once at most."""
    features, largest = make(150, 33), []

    def recorded(left, right):
        largest.append(len(left) * len(right))
        return products_of(left, right)

    monkeypatch.setattr(analysis.features.tiles, "ROWS", 32)
    monkeypatch.setattr(analysis.features.tiles, "ENTRIES", 2**12)
    monkeypatch.setattr(analysis.features.tiles, "rows_at_once", lambda bytes_each: 10)
    monkeypatch.setattr(analysis.features.tiles, "products_of", recorded)
    small = interaction_index(features, 5, 3)
    monkeypatch.undo()
    assert max(largest) <= 2**12
    whole = interaction_index(features, 5, 3)
    for name in ("left", "right", "reached", "partner"):
        assert getattr(small, name).equal(getattr(whole, name))


@pytest.mark.parametrize("at_once", [2, 64])
def test_submatrices_of_all_output_features(at_once, monkeypatch):
    features = make()
    monkeypatch.setattr(analysis.features.submatrix, "AT_ONCE", at_once)
    index = interaction_index(features, pairs_that_hold(6), 1)
    for output, found in enumerate(submatrices_of_pairs(features, index.left, index.right, 6)):
        expected = strongest_submatrix(features, output, 6, order="strength")
        assert (found.output, found.features.tolist()) == (output, expected.features.tolist())
        torch.testing.assert_close(found.matrix, expected.matrix)
