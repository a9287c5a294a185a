"""The features part of the report: every number on it against the analysis that it stands for."""

from dataclasses import replace

import pytest
import torch

from analysis import (
    certify_features,
    effective_rank,
    eigendecompose,
    explained_on_text,
    feature_layer,
    strongest_interactions,
    strongest_submatrix,
    top_contexts,
)
from analysis.features.dictionaries import LayerDictionaries
from analysis.report.features import collect_features
from analysis.report.features_section import features_section
from analysis.report.options import FeatureSource, ReportOptions
from analysis.report.write import report
from analysis.text.vocabulary import Vocabulary, visible
from bilinear_lm import Dictionary, InputError, Site
from bilinear_lm.families import decoder_block
from bilinear_lm.norms import normalised
from bilinear_lm.sites import site_activations
from bilinear_lm.weights import embedding, unembedding

from .pages import data_of

TEXT = (
    "Once upon a time a cat and a dog ran to the park.\n<|endoftext|>\n"
    "They saw a big red ball and were happy. A cat ran."
)
N_IN, N_OUT = 22, 18


def make_dictionary(point, layer, n_feat, seed, **more):
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = (torch.randn(*shape, generator=generator) for shape in ((16, n_feat), (n_feat, 16)))
    settings = {"activation": "topk", "k": 5} | more
    return Dictionary(
        encoder, decoder, torch.randn(n_feat, generator=generator), site=Site(layer, point), **settings
    )


@pytest.fixture(params=["mlp-in", "resid-mid"])
def point(request):
    return request.param


@pytest.fixture
def model(make_model, tiny_tokenizer):
    return make_model(d_vocab=len(tiny_tokenizer), mlp_bias=True)


@pytest.fixture
def source(point):
    pairs = tuple(
        LayerDictionaries(
            layer, make_dictionary(point, layer, N_IN, 2 * layer), make_dictionary("mlp-out", layer, N_OUT, 9)
        )
        for layer in (0, 1)
    )
    return FeatureSource(pairs, TEXT, n_contexts=3, width=4, n_interactions=6, n_corner=5, n_values=7)


@pytest.fixture
def data(model, tiny_tokenizer, source):
    return collect_features(model, tiny_tokenizer, source, [0, 1], progress=False)


@pytest.fixture
def packed(data, tiny_tokenizer, model):
    return data_of(features_section(data, Vocabulary.of(tiny_tokenizer, model.config.vocab_size)))


def windows_of(source, tokenizer, model):
    return source.windows(tokenizer, model.config.max_position_embeddings)


def test_contexts_and_activity(data, source, model, tiny_tokenizer):
    windows = windows_of(source, tiny_tokenizer, model)
    assert data.n_tokens == sum(map(len, windows)) - len(windows)
    for reading, pair in zip(data.layers, source.dictionaries, strict=True):
        for side, dictionary in ((reading.inputs, pair.inputs), (reading.outputs, pair.outputs)):
            expected = top_contexts(model, dictionary, windows, k=3, width=4, skip=1)
            torch.testing.assert_close(side.contexts.values, expected.values)
            codes = [
                dictionary.encode(seen[dictionary.site])[0, 1:]
                for window in windows
                for seen in site_activations(model, [torch.tensor([window])], [dictionary.site])
            ]
            count = (torch.cat(codes) != 0).sum(0)
            assert side.n_active.tolist() == count[side.features].tolist()


def test_interactions_and_spectra(data, source, model):
    for reading, pair in zip(data.layers, source.dictionaries, strict=True):
        features = feature_layer(model, reading.layer, pair.inputs, pair.outputs)
        found = eigendecompose(features.tensor, features.outputs)
        torch.testing.assert_close(reading.spectra.values, found.values[:, :7])
        torch.testing.assert_close(reading.spectra.effective_rank, effective_rank(found.values))
        squares = found.values.square()
        share = (squares.cumsum(1) / squares.sum(1, keepdim=True))[:, :7]
        torch.testing.assert_close(reading.spectra.share, share)
        torch.testing.assert_close(reading.spectra.strength, squares.sum(1).sqrt())
        for output in range(N_OUT):
            expected = strongest_interactions(features, [output], 6)
            top = list(reading.index.into(output))[:6]
            assert [(item.left, item.right) for item in top] == [(item.left, item.right) for item in expected]
            corner = reading.corners[output]
            expected = strongest_submatrix(features, output, 5, order="strength")
            assert corner.features.tolist() == expected.features.tolist()
            torch.testing.assert_close(corner.matrix, expected.matrix)


def test_what_output_features_can_reach(packed, data, source, model):
    for part, around, kept in zip(packed["layers"], source.dictionaries, data.layers, strict=True):
        ranges = certify_features(model, around.outputs)
        assert part["out"]["most"] == pytest.approx(ranges.high[kept.outputs.features].tolist(), rel=5e-3)
        most_seen = kept.outputs.contexts.values[kept.outputs.features].amax(1)
        assert (most_seen <= kept.most * (1 + 1e-5)).all()


def test_correlations(data, source, model, tiny_tokenizer, point):
    windows = windows_of(source, tiny_tokenizer, model)
    for reading, pair in zip(data.layers, source.dictionaries, strict=True):
        if point == "resid-mid":  # the layer whose input is that of `explained_on_text`
            expected = explained_on_text(model, reading.layer, pair.outputs, windows, k=5, skip=1)
            torch.testing.assert_close(
                reading.explained.all_tokens, expected.all_tokens, rtol=1e-4, atol=1e-4
            )
            torch.testing.assert_close(
                reading.explained.active_tokens,
                expected.active_tokens,
                rtol=1e-3,
                atol=1e-3,
                equal_nan=True,
            )
        assert reading.explained.n_tokens == data.n_tokens
        assert reading.explained.n_active.tolist() == reading.outputs.n_active.tolist()


def test_all_eigenvectors_explain_everything(model, tiny_tokenizer, source):
    """With as many eigenvectors as inputs the approximation is the feature itself, in either coordinates."""
    data = collect_features(
        model, tiny_tokenizer, replace(source, n_eigenvectors=17, n_values=17), [0, 1], progress=False
    )
    for reading in data.layers:
        last = reading.explained.all_tokens[:, -1]
        torch.testing.assert_close(last, torch.ones_like(last), rtol=0, atol=1e-4)


def test_features_in_tokens(data, source, model, tiny_tokenizer, point):
    listed = sorted({token for window in data.windows for token in window[1:]})
    W_U = unembedding(model)
    W_U = (W_U - W_U.mean(1, keepdim=True))[:, listed]
    for reading, pair in zip(data.layers, source.dictionaries, strict=True):
        W_E = embedding(model)[listed]
        if point == "mlp-in":
            norm = decoder_block(model, reading.layer).post_attention_layernorm
            W_E = normalised(norm, W_E) * norm.weight.detach()
        read = pair.inputs.pre_activations(W_E).T
        written = pair.outputs.decoder @ W_U
        for side, scores in ((reading.inputs, read), (reading.outputs, written)):
            torch.testing.assert_close(side.tokens.top_scores, scores.topk(8).values)
            assert side.tokens.top[:, 0].tolist() == [listed[i] for i in scores.argmax(1).tolist()]
            assert side.tokens.bottom[:, 0].tolist() == [listed[i] for i in scores.argmin(1).tolist()]


def test_bilinear_encoders_of_inputs_are_read_too(model, tiny_tokenizer, source):
    pair = source.dictionaries[0]
    gated = replace(pair.inputs, encoder_gate=torch.randn(16, N_IN), b_gate=torch.randn(N_IN))
    data = collect_features(
        model,
        tiny_tokenizer,
        replace(source, dictionaries=(replace(pair, inputs=gated),), n_features=7),
        [0],
        progress=False,
    )
    side = data.layers[0].inputs
    assert len(side.features) == 7
    listed = sorted({token for window in data.windows for token in window[1:]})
    if side.site.point == "resid-mid":
        scores = gated.pre_activations(embedding(model)[listed])[:, side.features].T
        torch.testing.assert_close(side.tokens.top_scores, scores.topk(8).values)


def test_the_most_active_features_are_kept(data, model, tiny_tokenizer, source):
    few = collect_features(model, tiny_tokenizer, replace(source, n_features=6), [1], progress=False)
    (reading,) = few.layers
    whole = data.layers[1]
    for side, all_of_it in ((reading.inputs, whole.inputs), (reading.outputs, whole.outputs)):
        assert len(side.features) == 6
        assert sorted(side.features.tolist()) == side.features.tolist()
        least = min(side.n_active.tolist())
        others = set(all_of_it.features.tolist()) - set(side.features.tolist())
        assert all(int(all_of_it.n_active[feature]) <= least for feature in others)
    chosen_in, chosen_out = reading.inputs.features, reading.outputs.features
    pair = source.dictionaries[1]
    full = feature_layer(model, 1, pair.inputs, pair.outputs)
    part = replace(full, inputs=full.inputs[chosen_in], outputs=full.outputs[chosen_out])
    expected = strongest_interactions(part, [2], 6)
    assert list(reading.index.into(2).left[:6]) == list(expected.left)


def test_the_data_of_the_page(packed, data, tiny_tokenizer, model):
    vocabulary = Vocabulary.of(tiny_tokenizer, model.config.vocab_size)
    windows = [[packed["tokens"][token] for token in window] for window in packed["windows"]]
    assert windows == [
        [visible(vocabulary.texts[token], keep=" ") for token in window] for window in data.windows
    ]
    special = {packed["tokens"][place] for place in packed["special"]}
    assert special == {tiny_tokenizer.bos_token, tiny_tokenizer.eos_token}
    for layer, reading in zip(packed["layers"], data.layers, strict=True):
        for key, side in (("in", reading.inputs), ("out", reading.outputs)):
            assert layer[key]["name"] == [side.contexts.names[feature] for feature in layer[key]["id"]]
            assert (layer[key]["given"], layer[key]["fingerprint"]) == ({}, side.fingerprint)
            for feature, contexts in zip(layer[key]["id"], layer[key]["contexts"], strict=True):
                expected = side.contexts.of(feature)
                assert len(contexts) == len(expected)
                for (window, position, *codes), context in zip(contexts, expected, strict=True):
                    by_offset = dict(zip(codes[::2], codes[1::2], strict=True))
                    assert window == context.window
                    assert data.windows[window][position] == context.tokens[context.peak]
                    found = [by_offset.get(i - context.peak, 0) for i in range(len(context.tokens))]
                    assert found == pytest.approx(context.activations, rel=5e-3)
        for place, (places, largest, thousandths) in enumerate(layer["out"]["corner"]):
            corner = reading.corners[place]
            values = corner.matrix * (2 - torch.eye(5))
            assert places == corner.features.tolist()
            upper = [float(values[i, j]) for i in range(5) for j in range(i, 5)]
            assert [n * largest / 1000 for n in thousandths] == pytest.approx(upper, abs=6e-4 * largest)
        for place, flat in enumerate(layer["in"]["feeds"]):
            for (output, partner, value), item in zip(
                zip(*[iter(flat)] * 3, strict=True), reading.index.of(place), strict=True
            ):
                assert (output, *sorted((place, partner))) == (item.output, item.left, item.right)
                assert value == pytest.approx(item.value, rel=5e-3)
        for flat in layer["out"]["into"]:
            assert len(flat) == 3 * 6


def test_the_first_feature_is_the_one_asked_for_if_it_is_there(data):
    assert replace(data, source=replace(data.source, first=(1, 4))).first == (1, 4)
    layer, place = data.first
    assert replace(data, source=replace(data.source, first=(7, 4))).first == (layer, place)
    clarity = {reading.layer: reading.clarity() for reading in data.layers}
    assert float(clarity[layer][place]) == max(float(scores.max()) for scores in clarity.values())


def test_layers_without_dictionaries(model, tiny_tokenizer, source):
    one = replace(source, dictionaries=source.dictionaries[1:])
    assert [at.layer for at in collect_features(model, tiny_tokenizer, one, [0, 1], False).layers] == [1]
    with pytest.raises(InputError, match="features of layers 0: the dictionaries are of layers 1"):
        collect_features(model, tiny_tokenizer, one, [0], progress=False)


def test_a_dictionary_that_is_never_active(model, tiny_tokenizer, source):
    pair = source.dictionaries[0]
    silent = replace(pair.outputs, b_enc=torch.full((N_OUT,), -1e9), activation="relu", k=None)
    quiet = replace(source, dictionaries=(replace(pair, outputs=silent),))
    options = ReportOptions(n_directions=1, layers=(0,), sample_tokens=0, text="a cat")
    page = report(model, tiny_tokenizer, "model", options, quiet, progress=False)
    side = data_of(page)["layers"][0]["out"]
    assert side["active"] == [0] * N_OUT
    assert side["contexts"] == [[]] * N_OUT
    assert side["activeOnly"] == [[None] * 5] * N_OUT
