"""Probes against numpy and brute force, and the curves of dropped terms on a concept that is known."""

import jaxtyping
import numpy as np
import pytest
import torch

from analysis.convolutions.probes import (
    area_under_curve,
    dropping,
    fit_probe,
    keeping,
    probe_scores,
)
from analysis.convolutions.terms import decompose_terms, random_terms
from bilinear_lm.errors import InputError
from bilinear_lm.networks.convolution import BilinearConv2d


def states(n=300, noise=0.1):
    """Features [n, 2, 3, 3] and a concept that is linear in them, but for noise, and rather rare."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, 3, 3, generator=draws, dtype=torch.float64) * 3 + 5
    return x, x[:, 0, 1, 1] - x[:, 1, 0, 2] + noise * torch.randn(n, generator=draws).double() > 3


@pytest.mark.parametrize("method", ["logistic", "ridge"])
def test_a_probe_finds_a_linear_concept(method):
    x, labels = states(2000)
    probe = fit_probe(x, labels, method=method)
    assert probe.test.auc > 0.98
    assert probe.weights.shape == (2, 3, 3)
    found = probe.weights.flatten().abs().argsort(descending=True)[:2]
    assert {*found.tolist()} == {4, 9 + 2}
    assert probe.test.n + probe.train.n == len(x)
    on_test = probe_scores(probe(x)[probe.test_states], labels[probe.test_states])
    assert on_test == probe.test


def test_ridge_is_the_regression_on_plus_and_minus_one():
    x, labels = states()
    probe = fit_probe(x, labels, method="ridge", ridge=1e-9)
    train = np.setdiff1d(np.arange(len(x)), probe.test_states.numpy())
    rows = np.column_stack([x.flatten(1).numpy()[train], np.ones(len(train))])
    expected = np.linalg.lstsq(rows, 2.0 * labels.numpy()[train] - 1, rcond=None)[0]
    np.testing.assert_allclose([*probe.weights.flatten().tolist(), probe.bias], expected, rtol=1e-5)


def test_logistic_is_at_the_minimum():
    """The gradient of the loss is 0: residuals have no relation with the features, but for the ridge."""
    x, labels = states()
    probe = fit_probe(x, labels, ridge=1e-2)
    seen = torch.ones(len(x), dtype=torch.bool)
    seen[probe.test_states] = False
    rows = x.flatten(1)[seen]
    mean, scale = rows.mean(0), rows.std(0, correction=0)
    residual = torch.sigmoid(probe(x)[seen]) - labels[seen].double()
    gradient = ((rows - mean) / scale).T @ residual / len(rows) + 1e-2 * probe.weights.flatten() * scale
    assert float(gradient.abs().max()) < 1e-6
    assert abs(float(residual.mean())) < 1e-6


def test_scores_against_counting():
    labels = torch.tensor([True, True, True, False, False, False, False, False])
    found = probe_scores(torch.tensor([2.0, 1.0, -1.0, 0.5, -0.5, -2.0, -3.0, -1.0]), labels)
    assert (found.n, found.base_rate, found.accuracy) == (8, 3 / 8, 6 / 8)
    assert (found.precision, found.recall) == (2 / 3, 2 / 3)
    assert found.f1 == pytest.approx(2 / 3)
    assert found.auc == pytest.approx((5 + 5 + 2.5) / 15)
    nothing = probe_scores(-torch.ones(8), labels)
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.auc) == (0, 0, 0, 0.5)


def test_a_rare_concept_has_a_high_accuracy_and_a_low_recall():
    labels = torch.arange(100) < 5
    found = probe_scores(torch.where(torch.arange(100) < 2, 1.0, -1.0), labels)
    assert found.accuracy == pytest.approx(0.97)
    assert found.recall == pytest.approx(0.4)


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    draws = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (3, 40), generator=draws).double()
    labels = torch.rand(40, generator=draws) < 0.3
    held, others = scores[:, labels, None], scores[:, None, ~labels]
    expected = ((held > others).double() + 0.5 * (held == others)).mean((1, 2))
    torch.testing.assert_close(area_under_curve(scores, labels), expected)


@pytest.fixture(scope="module")
def read():
    """Terms of a vector with one part, states, and a concept: the first term is above its mean."""
    torch.manual_seed(0)
    vector = torch.randn(3, 1, 1, dtype=torch.float64) * torch.ones(3, 2, 2, dtype=torch.float64)
    terms = decompose_terms(BilinearConv2d(3, 3, 3).double(), vector)
    x = torch.randn(400, 3, 4, 4, dtype=torch.float64)
    order = terms.by_weight
    score = terms.values(x)[:, order[0]]
    return terms, x, score > score.mean(), order


def test_dropping_the_term_that_makes_a_concept(read):
    terms, x, labels, order = read
    on = terms.on(x)
    controls = [random_terms(terms, seed, energy="variance", x=x).on(x) for seed in range(2)]
    curve = dropping(on, labels, order, counts=(0, 1, 2), controls=controls)
    assert float(curve.auc[0]) == pytest.approx(curve.whole)
    assert float(curve.auc[1]) == pytest.approx(float(area_under_curve(on.drop(order[:1]), labels)))
    assert abs(float(curve.auc[1]) - 0.5) < 0.07 < curve.whole - 0.5
    assert (curve.control[:, 1] > curve.auc[1]).all()
    expected = area_under_curve(on.drop(order[:2], control=controls[1]), labels)
    assert float(curve.control[1, 2]) == pytest.approx(float(expected))


def test_keeping_the_term_that_makes_a_concept(read):
    terms, x, labels, order = read
    on = terms.on(x)
    curve = keeping(on, labels, order, counts=(0, 1, len(terms)), controls=[random_terms(terms).on(x)])
    assert float(curve.auc[0]) == pytest.approx(curve.direct)
    assert float(curve.auc[1]) > max(curve.direct, float(curve.control[0, 1]))
    assert float(curve.auc[2]) == pytest.approx(curve.whole)
    assert f"kept=0: {curve.direct:.3f}, 1: " in repr(curve)


def test_concepts_and_counts_that_say_nothing_are_refused(read, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for a user, without shape checks
    x, labels = states()
    with pytest.raises(InputError, match="the concept holds in 0 of 300 states"):
        fit_probe(x, torch.zeros(300, dtype=torch.bool))
    with pytest.raises(InputError, match="the concept holds in 300 of 300 states"):
        fit_probe(x, torch.ones(300, dtype=torch.bool))
    one = torch.arange(300) == 7
    with pytest.raises(InputError, match=r"the concept in the \d+ states of the (fit|test) holds in 0"):
        fit_probe(x, one)
    with pytest.raises(InputError, match=r"labels torch.int64 \[300\]; expected truth values"):
        fit_probe(x, labels.long())
    with pytest.raises(InputError, match=r"labels torch.bool \[299\]; .* one for each of 300 states"):
        fit_probe(x, labels[1:])
    with pytest.raises(InputError, match="features of a probe holds NaN"):
        fit_probe(x * torch.nan, labels)
    with pytest.raises(InputError, match="method 'svm'; expected one of logistic, ridge"):
        fit_probe(x, labels, method="svm")
    with pytest.raises(InputError, match=r"features \[300, 18\]; expected \[n, 2, 3, 3\]"):
        fit_probe(x, labels)(x.flatten(1))
    terms, inputs, holds, order = read
    with pytest.raises(InputError, match="19 terms of an order of 18"):
        dropping(terms.on(inputs), holds, order, counts=(19,))
    with pytest.raises(InputError, match="control terms of another shape"):
        dropping(terms.on(inputs), holds, order, controls=[terms[:5].on(inputs)])
