"""Correlations against numpy, truncations against the dense tensor, and ablations whose effect is known."""

import numpy as np
import pytest
import torch

import analysis.features.explained
import analysis.interventions.interactions
import bilinear_lm.numerics.memory
from analysis import (
    ablation_control,
    eigendecompose,
    explained_on_text,
    feature_layer,
    hosvd,
    strongest_interactions,
    truncate,
    truncate_eigenvectors,
    truncation_costs,
)
from analysis.features import Interactions, explained_by_eigenvectors
from analysis.interventions import ablated, random_interactions
from analysis.streaming import PairMoments
from analysis.text import window_losses
from bilinear_lm import BilinearTensor, Dictionary, InputError, Site, mlp_tensor
from bilinear_lm.sites import mlp_inputs, site_activations

WIDTH, H, OUT, N_FEAT = 8, 14, 6, 11


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=[True, False], ids=["biases", "no biases"])
def tensor(request):
    factors = draw(WIDTH, H), draw(WIDTH, H, seed=1), draw(H, OUT, seed=2)
    biases = (draw(H, seed=3), draw(H, seed=4), draw(OUT, seed=5)) if request.param else ()
    return BilinearTensor.from_layer(*factors, *biases)


@pytest.fixture
def outputs():
    return Dictionary(
        draw(OUT, N_FEAT, seed=6), draw(N_FEAT, OUT, seed=7), draw(N_FEAT, seed=8), activation="topk", k=3
    )


def test_moments_of_pieces_against_numpy():
    # A mean 10⁸ times the spread: Σ x² − (Σ x)² / n would have no digit left.
    x, y = 1e8 + draw(50, 4), draw(50, 4, seed=1)
    y += x - 1e8
    seen = draw(50, 4, seed=2) > 0
    pieces = [PairMoments.of(x[i : i + 7], y[i : i + 7], seen[i : i + 7]) for i in range(0, 50, 7)]
    total = pieces[0]
    for piece in pieces[1:]:
        total = total + piece
    assert torch.equal(total.count, seen.sum(0).double())
    for column in range(4):
        rows = seen[:, column]
        expected = np.corrcoef(x[rows, column] - 1e8, y[rows, column])[0, 1]
        assert float(total.correlation[column]) == pytest.approx(expected, abs=1e-7)


def test_moments_in_float32_keep_their_digits():
    x = (1000 + draw(10000)).float()
    y = (x.double() + draw(10000, seed=1)).float()
    total = PairMoments.of(x[:1], y[:1]) + PairMoments.of(x[1:], y[1:])
    assert float(total.correlation) == pytest.approx(np.corrcoef(x.double(), y.double())[0, 1], abs=1e-5)


def test_moments_that_have_no_correlation():
    one = torch.ones(4)
    nothing = PairMoments.of(one, one, torch.zeros(4, dtype=torch.bool))
    assert PairMoments.of(one, torch.arange(4.0)).correlation.isnan()
    assert (nothing + PairMoments.of(one[:1], one[:1])).correlation.isnan()
    three = PairMoments.of(torch.arange(3.0), torch.arange(3.0))
    for total in (nothing + three, three + nothing):
        assert float(total.correlation) == pytest.approx(1.0)


@pytest.mark.parametrize("chunk", [1, 2**28], ids=["token by token", "whole"])
def test_correlations_against_numpy(tensor, outputs, chunk, monkeypatch):
    monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", chunk)
    x, features, k = draw(60, WIDTH, seed=9), [4, 0, 10], 5
    found = explained_by_eigenvectors(tensor, outputs, iter(x.split(25)), features, k)
    written = tensor(x)
    active = outputs.encode(written) != 0
    point = torch.cat([x, x.new_ones(60, 1)], dim=1)[:, : tensor.d_in]
    assert found.n_tokens == 60
    for row, feature in enumerate(features):
        u = outputs.encoder[:, feature]
        terms = eigendecompose(tensor, u, k).activations(point)
        rows = active[:, feature]
        assert int(found.n_active[row]) == int(rows.sum()) > 2
        for rank in range(k):
            approximation = terms[:, : rank + 1].sum(1)
            everywhere = np.corrcoef(approximation, written @ u)[0, 1]
            where_active = np.corrcoef(approximation[rows], (written @ u)[rows])[0, 1]
            assert float(found.all_tokens[row, rank]) == pytest.approx(everywhere, abs=1e-9)
            assert float(found.active_tokens[row, rank]) == pytest.approx(where_active, abs=1e-9)


def test_all_eigenvectors_explain_everything(tensor, outputs):
    found = explained_by_eigenvectors(tensor, outputs, [draw(60, WIDTH, seed=9)], k=tensor.d_in)
    assert torch.allclose(found.all_tokens[:, -1], torch.ones(N_FEAT, dtype=torch.float64))


def windows_of(model, count=6, length=12):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.config.vocab_size, (count, length), generator=generator).tolist()


def site_dictionary(site, n_feat=20, seed=0, **kwargs):
    rows = torch.nn.functional.normalize(draw(n_feat, 16, seed=seed).float(), dim=1)
    return Dictionary(rows.T.contiguous(), rows, site=site, **kwargs)


def test_on_a_text_the_skipped_positions_do_not_count(make_model):
    model = make_model(mlp_bias=True)
    outputs, windows = site_dictionary(Site(1, "mlp-out")), windows_of(model)
    found = explained_on_text(model, 1, outputs, windows, [3, 5], k=2, skip=2, batch_size=4)
    points = mlp_inputs(model, torch.tensor(windows), [1])[0, :, 2:].flatten(0, 1)
    expected = explained_by_eigenvectors(mlp_tensor(model, 1), outputs, [points], [3, 5], 2)
    assert found.n_tokens == expected.n_tokens == 60
    assert torch.allclose(found.all_tokens, expected.all_tokens, atol=1e-5)
    assert torch.allclose(found.active_tokens, expected.active_tokens, atol=1e-5, equal_nan=True)


def test_truncated_eigenvectors_against_the_dense_tensor(tensor):
    found, k = hosvd(tensor).output_directions, 3
    truncated = truncate_eigenvectors(tensor, k)
    assert truncated.d_mlp == OUT * k
    assert truncated.constant == tensor.constant
    expected = torch.zeros_like(tensor.dense())
    for u in found:
        parts = eigendecompose(tensor, u, k)
        expected += torch.einsum("o,n,ni,nj->oij", u, parts.values, parts.vectors, parts.vectors)
    assert torch.allclose(truncated.dense(), expected)
    assert torch.allclose(truncate_eigenvectors(tensor, tensor.d_in).dense(), tensor.dense())


def test_truncation_costs_end_at_the_whole_layer(make_model):
    model = make_model(mlp_bias=True)
    windows = windows_of(model)
    costs = truncation_costs(model, 0, [1, 17], windows)
    assert costs.whole == pytest.approx(float(window_losses(model, windows).mean()))
    assert float(costs.losses[1]) == pytest.approx(costs.whole, abs=1e-5)
    assert abs(float(costs.losses[0]) - costs.whole) > 1e-3
    by_outputs = truncation_costs(
        model, 0, [0, 16], windows, lambda tensor, k: truncate(tensor, hosvd(tensor), k)
    )
    assert float(by_outputs.losses[0]) == pytest.approx(costs.without, abs=1e-5)
    assert float(by_outputs.losses[1]) == pytest.approx(costs.whole, abs=1e-5)


@pytest.mark.parametrize("point", ["mlp-in", "resid-mid"])
def test_ablation_takes_out_what_it_says(make_model, point):
    model = make_model()
    inputs, outputs = site_dictionary(Site(0, point)), site_dictionary(Site(0, "mlp-out"), seed=3)
    found = strongest_interactions(feature_layer(model, 0, inputs, outputs), [2, 7], 5)
    ids = torch.tensor(windows_of(model))
    sites = [inputs.site, outputs.site]
    before = next(site_activations(model, [ids], sites))
    with ablated(model, inputs, outputs, found):
        after = next(site_activations(model, [ids], sites))
    x, expected = before[inputs.site], before[outputs.site].clone()
    code = inputs.encode(x)
    scale = 1 / (x.square().mean(-1) + model.config.rms_norm_eps) if point == "resid-mid" else 1.0
    for item in found:
        size = item.value * code[..., item.left] * code[..., item.right] * scale
        expected -= size[..., None] * outputs.decoder[item.output]
    assert torch.allclose(after[outputs.site], expected, atol=1e-4)
    assert not torch.allclose(expected, before[outputs.site], atol=1e-2)
    unchanged = next(site_activations(model, [ids], sites))
    assert torch.equal(unchanged[outputs.site], before[outputs.site])


def one_interaction(make_model):
    """A model whose MLP computes one product: of input coordinates 0 and 1, added to coordinate 2."""
    model = make_model(n_layers=1, norms=False)
    mlp = model.model.layers[0].mlp
    with torch.no_grad():
        for part, row, column in ((mlp.gate_proj, 0, 0), (mlp.up_proj, 0, 1), (mlp.down_proj, 2, 0)):
            part.weight.zero_()
            part.weight[row, column] = 1.0
    eye = torch.eye(16)
    inputs = Dictionary(eye, eye, signed=True, activation="topk", k=16, site=Site(0, "mlp-in"))
    outputs = Dictionary(eye, eye, site=Site(0, "mlp-out"))
    return model, inputs, outputs


def test_ablation_against_its_control_where_the_answer_is_known(make_model):
    model, inputs, outputs = one_interaction(make_model)
    windows = windows_of(model)
    features = feature_layer(model, 0, inputs, outputs)
    (only,) = strongest_interactions(features, [2], 1)
    assert (only.left, only.right, only.value) == (0, 1, 1.0)
    found = strongest_interactions(features, [2], 1)
    control = ablation_control(model, 0, inputs, outputs, found, windows, seeds=range(4))
    # Without the one interaction the feature is never active; without any other nothing changes.
    assert torch.allclose(control.strongest.activation_change, torch.ones(6, dtype=torch.float64))
    model.model.layers[0].mlp.down_proj.weight.data.zero_()
    without = window_losses(model, windows)
    model.model.layers[0].mlp.down_proj.weight.data[2, 0] = 1.0
    change = without - window_losses(model, windows)
    assert change.abs().max() > 1e-3
    assert torch.allclose(control.strongest.loss_change, change, atol=1e-5)
    for effect in control.random:
        assert not effect.activation_change.any()
        assert torch.allclose(effect.loss_change, torch.zeros(6, dtype=torch.float64), atol=1e-6)
    with pytest.raises(InputError, match="all 0"):
        ablation_control(model, 0, inputs, outputs, found, windows, equal="total")


def test_random_interactions_are_like_the_others(make_model):
    features = feature_layer(
        make_model(), 0, site_dictionary(Site(0, "mlp-in")), site_dictionary(Site(0, "mlp-out"), seed=3)
    )
    like = strongest_interactions(features, [4, 9], 12)
    pools = [[1, 3, 5, 7], [], [0, 2, 4, 6, 8, 10]]
    found = random_interactions(features, like, pools, seed=1)
    again = random_interactions(features, like, pools, seed=1)
    assert list(found) == list(again)
    assert list(found) != list(random_interactions(features, like, pools, seed=2))
    assert found.outputs.tolist() == like.outputs.tolist()
    places = {(item.output, item.left, item.right) for item in found}
    assert len(places) == 12
    assert not places & {(item.output, item.left, item.right) for item in like}
    for item in found:
        assert item.left <= item.right
        assert any({item.left, item.right} <= set(pool) for pool in pools)
        expected = features.matrix(features.outputs[item.output])[item.left, item.right]
        assert item.value == pytest.approx(float(expected) * (1 + (item.left < item.right)), abs=1e-5)
    equal = random_interactions(features, like, pools, seed=1, equal="total")
    assert float(equal.values.abs().sum()) == pytest.approx(float(like.values.abs().sum()), rel=1e-5)
    assert torch.allclose(equal.values / equal.values[0], found.values / found.values[0], atol=1e-5)


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ([], "no text"),
        ([[1, 2], []], "window 1 has 0 tokens"),
        ([[1, 2], [3]], "window 1 has 1 tokens; expected 2 to 32"),
        ([[1] * 33], "window 0 has 33 tokens; expected 2 to 32"),
        ([[1, 300]], "tokens 1 to 300; expected 0 to 299"),
    ],
)
def test_windows_that_cannot_be_read(make_model, windows, message):
    with pytest.raises(InputError, match=message):
        window_losses(make_model(), windows)


@pytest.mark.parametrize(
    ("features", "k", "points", "message"),
    [
        ([N_FEAT], 2, [draw(3, WIDTH)], "expected some of 0 to 10"),
        ([], 2, [draw(3, WIDTH)], "expected some of"),
        ([0], 10, [draw(3, WIDTH)], "k=10 eigenvectors"),
        ([0], 2, [], "no points"),
        ([0], 2, [draw(0, WIDTH)], "no points"),
    ],
)
def test_bad_input_to_explain(tensor, outputs, features, k, points, message):
    with pytest.raises(InputError, match=message):
        explained_by_eigenvectors(tensor, outputs, points, features, k)


def test_dictionaries_that_do_not_fit(tensor, outputs, make_model):
    wide = Dictionary(draw(OUT + 1, 4), draw(4, OUT + 1))
    with pytest.raises(InputError, match="reads 7 numbers"):
        explained_by_eigenvectors(tensor, wide, [draw(3, WIDTH)])
    model = make_model()
    with pytest.raises(InputError, match="expected 1-mlp-out"):
        explained_on_text(model, 1, site_dictionary(Site(0, "mlp-out")), windows_of(model))
    with pytest.raises(InputError, match="no ranks"):
        truncation_costs(model, 0, [], windows_of(model))
    transcoder = site_dictionary(Site(0, "mlp-in"), target=Site(0, "mlp-out"))
    nothing = Interactions(*torch.zeros(3, 0, dtype=torch.long), torch.zeros(0))
    with (
        pytest.raises(InputError, match="reads and writes the same"),
        ablated(model, transcoder, site_dictionary(Site(0, "mlp-out")), nothing),
    ):
        pass


def test_too_few_features_to_draw_from(make_model):
    features = feature_layer(
        make_model(), 0, site_dictionary(Site(0, "mlp-in")), site_dictionary(Site(0, "mlp-out"), seed=3)
    )
    for pools in ([[0, 1]], [[]], []):
        with pytest.raises(InputError, match="no more random pairs to draw into output feature 1"):
            random_interactions(features, strongest_interactions(features, [1], 5), pools)


def test_control_draws_what_is_active_together(make_model, monkeypatch):
    model, inputs, outputs = (
        make_model(),
        site_dictionary(Site(0, "mlp-in")),
        site_dictionary(Site(0, "mlp-out")),
    )
    windows, drawn = windows_of(model), []
    found = strongest_interactions(feature_layer(model, 0, inputs, outputs), [2], 3)
    code = inputs.encode(next(site_activations(model, [torch.tensor(windows)], [inputs.site]))[inputs.site])
    together = [set(row.nonzero().flatten().tolist()) for row in code.flatten(0, 1)]

    def remember(features, like, pools, seed, equal):
        drawn.append(pools)
        return random_interactions(features, like, pools, seed, equal)

    monkeypatch.setattr(analysis.interventions.interactions, "random_interactions", remember)
    control = ablation_control(model, 0, inputs, outputs, found, windows, seeds=[3], equal="total")
    assert [set(pool) for pool in drawn[0]] == together
    assert len(control.random) == 1
    assert control.random[0].activation_change.any()
    ablation_control(model, 0, inputs, outputs, found, windows, seeds=[3], among="features")
    assert [set(pool) for pool in drawn[1]] == [set().union(*together)]
