"""Features and heads of any size: the right number by a dense float64 oracle, or a refusal."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from analysis import (
    FeatureLayer,
    composition_scores,
    interaction_index,
    interaction_statistics,
    opposing_features,
    strongest_interactions,
    strongest_patterns,
    strongest_submatrix,
)
from analysis.streaming import PairMoments
from bilinear_lm import InputError

from .any_size import OUT, N, any_scale, assert_right_or_refused, dense, draw, layer, refused, scales


def features(c, a=1.0, b=1.0):
    """Features [N, 6] scaled by a, read along directions [OUT, OUT] scaled by b."""
    return FeatureLayer(
        layer(c, d_in=6), (draw(N, 6, seed=5) * a).float(), (draw(4, OUT, seed=6) * b).float()
    )


def between(layer):
    F, U = layer.inputs.double().numpy(), layer.outputs.double().numpy()
    return np.einsum("ao,oij,bi,cj->abc", U, dense(layer.tensor), F, F)


def ranked(B, k):
    pairs = itertools.product(range(len(B)), *2 * [range(B.shape[1])])
    values = [(a, i, j, B[a, i, j] * (1 + (i < j))) for a, i, j in pairs if i <= j]
    return sorted(values, key=lambda item: -abs(item[3]))[:k]


@any_scale
@given(c=st.floats(-8, 8).map(lambda power: 10.0**power), a=scales)
@example(c=1.0, a=1e-25)
@example(c=1.0, a=1e25)
@example(c=1.0, a=1e-18)
def test_strongest_interactions(c, a):
    for asked in (features(c, a), features(c, a, 1 / a), features(1.0, 1.0, a)):
        best = ranked(between(asked), 12)
        expected = np.array([value for *_, value in best])
        assert_right_or_refused(lambda asked=asked: strongest_interactions(asked, None, 12).values, expected)
        result = refused(lambda asked=asked: strongest_interactions(asked, None, 12))
        if result is None:
            continue
        index = interaction_index(asked, 5, 5)
        places = zip(
            *(column.tolist() for column in (result.outputs, result.left, result.right)), strict=True
        )
        assert list(places) == [place[:3] for place in best]
        assert next(iter(index.into(best[0][0]))).value == pytest.approx(best[0][3], rel=1e-5)


def test_tiny_rows_beside_large_ones_are_not_lost():
    whole = features(1.0)
    inputs = whole.inputs.clone()
    inputs[3:] *= 1e-12
    mixed = FeatureLayer(whole.tensor, inputs, whole.outputs)
    expected = ranked(between(mixed), 30)
    result = strongest_interactions(mixed, None, 30)
    assert np.allclose(result.values.double().numpy(), [item[3] for item in expected], rtol=1e-5)


@any_scale
@given(a=scales)
@example(a=1e25)
@example(a=1e-25)
def test_statistics_patterns_and_submatrices(a):
    plain, scaled = features(1.0), features(1.0, a, 1 / a)
    ours, theirs = (interaction_statistics(each, top=4) for each in (plain, scaled))
    for name in ("effective_rank", "mass", "kurtosis"):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-5)
    entries = between(scaled).reshape(4, -1)
    assert np.allclose(theirs.deviation.double().numpy(), entries.std(1), rtol=1e-5)
    Q = np.einsum("ao,oij->aij", scaled.outputs.double().numpy(), dense(scaled.tensor)).reshape(4, -1)
    assert np.allclose(theirs.strength.double().numpy(), np.linalg.norm(Q, axis=1), rtol=1e-5)
    assert ours.outliers.tolist() == theirs.outliers.tolist()
    pairs = strongest_patterns(plain, "saddle", k=5), strongest_patterns(scaled, "saddle", k=5)
    assert pairs[0].left.tolist() == pairs[1].left.tolist()
    assert np.allclose(pairs[1].cross.double().numpy(), pairs[0].cross.double().numpy() * a, rtol=1e-4)
    assert torch.equal(strongest_submatrix(plain, 1, 6).features, strongest_submatrix(scaled, 1, 6).features)
    decoder = draw(4, OUT, seed=9).float()
    opposed = [opposing_features(each, decoder * c, 3, -0.01) for each, c in ((plain, 1.0), (scaled, a))]
    assert opposed[0].left.tolist() == opposed[1].left.tolist()
    for name in ("cosines", "similarity", "explained"):
        assert torch.allclose(getattr(opposed[0], name), getattr(opposed[1], name), atol=1e-4)


@any_scale
@given(a=scales)
@example(a=1e25)
@example(a=1e-25)
def test_correlations(a):
    x, y = draw(30, 3) + 1, draw(30, 3, seed=1)
    pieces = [
        PairMoments.of((x[part] * a).float(), (y[part] / a).float()) for part in (slice(9), slice(9, 30))
    ]
    expected = [np.corrcoef(x[:, i].numpy(), y[:, i].numpy())[0, 1] for i in range(3)]
    assert np.allclose((pieces[0] + pieces[1]).correlation.numpy(), expected, atol=1e-5)
    with pytest.raises(InputError, match="x of a correlation holds NaN or infinity"):
        PairMoments.of(x * math.nan, y)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_composition(scale, family_model):
    from dataclasses import replace

    from analysis import attention_layer, composition_through

    model = family_model()
    first, second = attention_layer(model, 0), attention_layer(model, 1)
    large = [
        replace(
            each, weights=replace(each.weights, W_Q=each.weights.W_Q * scale, W_V=each.weights.W_V * scale)
        )
        for each in (first, second)
    ]
    v = draw(2, first.d_model).float()
    for plain, other in (
        (composition_scores(first, second, 1), composition_scores(*large, 1)),
        (composition_through(first, second, v), composition_through(*large, v / scale)),
    ):
        for name in ("query", "key", "value"):
            assert torch.allclose(getattr(plain, name), getattr(other, name), atol=1e-5)
    silent = replace(first, weights=replace(first.weights, W_V=0 * first.weights.W_V))
    assert not composition_scores(silent, second).value.any()
