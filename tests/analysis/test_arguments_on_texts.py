"""Wrong arguments of analyses that read a model or a text: one line each that says what was expected."""

import itertools

import pytest
import torch

from analysis import (
    ablation_control,
    attention_layer,
    composition_through,
    explained_on_text,
    feature_outputs,
    feature_scores,
    strongest_outputs,
    strongest_scores,
    token_windows,
    top_contexts,
    truncation_costs,
)
from analysis.features import explained_by_eigenvectors
from analysis.text import window_losses
from bilinear_lm import Dictionary, Site

from .arguments import COUNTS, NAMES, NAN, OUT, SEEDS, SOME, TENSORS, WHOLE, T, X, draw, said

pytestmark = pytest.mark.usefixtures("without_shape_checks")


@pytest.fixture
def model(make_model):
    return make_model()


def dictionary(site, d=16):
    return Dictionary(draw(d, 20, seed=7), draw(20, d, seed=8), activation="topk", k=4, site=Site(1, site))


def out_of_range(column):
    columns = {name: torch.tensor([1]) for name in ("outputs", "left", "right")}
    return type(SOME)(**columns | {column: torch.tensor([20])}, values=torch.ones(1))


WINDOWS = [[1, 2, 3, 4, 5], [6, 7, 8, 9]]


@pytest.mark.parametrize(
    ("call", "values"),
    [
        (lambda m, v: top_contexts(m, dictionary("mlp-out"), WINDOWS, k=v), COUNTS),
        (lambda m, v: top_contexts(m, dictionary("mlp-out"), WINDOWS, width=v), WHOLE),
        (lambda m, v: top_contexts(m, dictionary("mlp-out"), WINDOWS, skip=v), WHOLE),
        (lambda m, v: top_contexts(m, dictionary("mlp-out"), WINDOWS, batch_size=v), COUNTS),
        (lambda m, v: window_losses(m, WINDOWS, v), COUNTS),
        (lambda m, v: explained_on_text(m, 1, dictionary("mlp-out"), WINDOWS, k=v), (*COUNTS, 17)),
        (lambda m, v: explained_on_text(m, 1, dictionary("mlp-out"), WINDOWS, skip=v), WHOLE),
        (lambda m, v: explained_on_text(m, 1, dictionary("mlp-out"), WINDOWS, batch_size=v), COUNTS),
        (
            lambda m, v: explained_on_text(m, 1, dictionary("mlp-out"), WINDOWS, v),
            ([], [20], [-1], [1.0], ["1"], [True]),
        ),
        (lambda m, v: truncation_costs(m, 1, v, WINDOWS), ([], [0], [17], [1.0], [2, NAN], ["1"])),
        (lambda m, v: ablate(m, equal=v), NAMES),
        (lambda m, v: ablate(m, among=v), NAMES),
        (lambda m, v: ablate(m, seeds=[v]), SEEDS),
        (lambda m, v: ablate(m, interactions=v), (out_of_range("outputs"), out_of_range("left"))),
    ],
)
def test_settings_on_a_text(call, values, model):
    for value in values:
        said(call, model, value)


def ablate(model, **changes):
    interactions = changes.pop("interactions", None) or type(SOME)(*3 * [torch.tensor([1])], torch.ones(1))
    ends = dictionary("mlp-in"), dictionary("mlp-out")
    return ablation_control(model, 1, *ends, interactions, WINDOWS, **changes)


def test_points_that_cannot_be_explained():
    outputs = Dictionary(draw(OUT, 4), draw(4, OUT), activation="relu")
    for points in (X[:, 1:], X.long(), X * NAN, X[0], X.numpy()):
        said(lambda points=points: explained_by_eigenvectors(T, outputs, [points], k=2))


def test_directions_at_attention(model):
    layer = attention_layer(model, 0)
    good = draw(3, 16)
    for kind in TENSORS.values():
        said(feature_scores, layer, kind(good))
        said(feature_outputs, layer, kind(good), good)
        said(feature_outputs, layer, good, kind(good))
        said(composition_through, layer, layer, kind(good))
    scores, outputs = feature_scores(layer, good), feature_outputs(layer, good, good)
    for k in (*COUNTS, 4 * 9 + 1):
        said(strongest_scores, scores, k)
        said(strongest_outputs, outputs, k)
    for place, index in itertools.product(range(3), (-1, 4)):
        columns = [torch.tensor([index if i == place else 0]) for i in range(3)]
        said(lambda columns=columns: scores.curves(*columns))
    large, small = good * 1e25, good * 1e-25
    assert "overflow" in said(lambda: feature_scores(layer, large).at([0]))
    assert "overflow" in said(lambda: strongest_scores(feature_scores(layer, large), 3))
    assert "underflow" in said(lambda: feature_scores(layer, small))
    assert "overflow" in said(lambda: feature_outputs(layer, large, large).matrix())
    assert "underflow" in said(lambda: feature_outputs(layer, small, small))


def test_windows_of_no_length(tiny_tokenizer):
    for length in (0, -1, 2.5, True, "8"):
        said(token_windows, tiny_tokenizer, "a cat", length)
