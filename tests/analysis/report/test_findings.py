"""The claims of the first screen: the rules of findings, the nulls beside them, and the distributions."""

import re
from dataclasses import replace

import pytest
import torch

from analysis import certify, eigendecompose, feature_layer
from analysis.graphs.elements import Node
from analysis.graphs.graph import Graph
from analysis.graphs.nodes import feature_node
from analysis.interventions.head_moves import HeadMoves
from analysis.report import glossary
from analysis.report.collect import collect
from analysis.report.document import page_file
from analysis.report.drawing import N_BINS, Row, compared, histogram
from analysis.report.features import collect_features
from analysis.report.findings.cards import findings, findings_section
from analysis.report.findings.directions import direction_bound, few_for_direction
from analysis.report.findings.features import (
    feature_bound,
    few_eigenvectors,
    opposite_features,
    purest_word,
)
from analysis.report.findings.prompts import head_reason
from analysis.report.nulls import opposition, random_directions, random_probe, random_rotation
from analysis.report.options import STORY, FeatureSource, ReportOptions
from analysis.report.page import render
from analysis.report.perspective import distributions, error_of_rank, perspective_section
from analysis.text.vocabulary import Vocabulary
from bilinear_lm import BilinearTensor, Site
from bilinear_lm.weights import mlp_tensor, unembedding

from .pages import hostile_model

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def made():
    model, tokenizer, pair = hostile_model([SCRIPT])
    source = FeatureSource((pair,), f"{STORY} {SCRIPT}", n_contexts=4, width=4, n_corner=4)
    return model, tokenizer, pair, collect_features(model, tokenizer, source, [1], progress=False)


@pytest.fixture(scope="module")
def vocabulary(made):
    model, tokenizer, _, _ = made
    return Vocabulary.of(tokenizer, model.config.vocab_size)


@pytest.fixture(scope="module")
def data(made):
    model, tokenizer, _, _ = made
    options = ReportOptions(n_directions=2, sample_tokens=0)
    return collect(model, tokenizer, "a model", options, progress=False)


def planted(features, **changes):
    """The features with every output feature active often, and some columns of the reading changed."""
    (reading,) = features.layers
    outputs = replace(reading.outputs, n_active=torch.full_like(reading.outputs.n_active, 50))
    reading = replace(reading, outputs=outputs)
    return replace(features, layers=(replace(reading, **changes),))


def with_peaks_at(features, index, token):
    """The features with all peaks of one of them at one token."""
    (reading,) = features.layers
    contexts = reading.outputs.contexts
    windows = (*contexts.windows, (token,) * 3)
    feature = int(reading.outputs.features[index])
    columns = {name: getattr(contexts, name).clone() for name in ("values", "window", "position")}
    columns["values"][feature] = 9.0
    columns["window"][feature], columns["position"][feature] = len(windows) - 1, 1
    outputs = replace(reading.outputs, contexts=replace(contexts, windows=windows, **columns))
    return replace(features, layers=(replace(reading, outputs=outputs),))


def test_the_feature_of_one_word_that_two_eigenvectors_follow_best(made, vocabulary):
    features = planted(made[3])
    word = vocabulary.words[0]
    features = with_peaks_at(features, 3, word)
    (reading,) = features.layers
    assert purest_word(reading.outputs, 3) == (word, 1.0)
    correlations = torch.full_like(reading.explained.active_tokens, 0.3)
    correlations[3, 1] = 0.95
    explained = replace(reading.explained, active_tokens=correlations)
    found = few_eigenvectors(replace(features, layers=(replace(reading, explained=explained),)), vocabulary)
    assert found.shown.feature == int(reading.outputs.features[3])
    assert (found.correlation, found.purity, found.n_active) == (pytest.approx(0.95), 1.0, 50)
    assert found.median == pytest.approx(0.3)
    assert found.word == vocabulary.label(word)
    correlations[3, 1] = 0.89
    weak = replace(reading, explained=replace(explained, active_tokens=correlations))
    assert few_eigenvectors(replace(features, layers=(weak,)), vocabulary) is None
    correlations[3, 1] = 0.95
    rare = replace(reading.outputs, n_active=torch.full_like(reading.outputs.n_active, 5))
    strong = replace(reading, explained=replace(explained, active_tokens=correlations), outputs=rare)
    assert few_eigenvectors(replace(features, layers=(strong,)), vocabulary) is None


def test_a_link_leads_to_the_circuit_where_there_is_one(made, vocabulary, data):
    features = with_peaks_at(planted(made[3]), 3, vocabulary.words[0])
    (reading,) = features.layers
    correlations = torch.full_like(reading.explained.active_tokens, 0.3)
    correlations[3, 1] = 0.95
    explained = replace(reading.explained, active_tokens=correlations)
    features = replace(features, layers=(replace(reading, explained=explained),))
    number = int(reading.outputs.features[3])
    own, other = (feature_node(Site(1, "mlp-out"), index) for index in (number, number + 1))
    circuit, elsewhere = (Graph((node,), (), node.id) for node in (own, other))
    to_circuit = f'<a href="#circuit-1-mlp-out-{number}">Its circuit</a>'
    to_feature = f'<a href="#layer-1-out-{number}">The feature</a>'
    for graphs, served, link in (
        ((), False, to_feature),
        ((elsewhere,), False, to_feature),
        ((elsewhere, circuit), False, to_circuit),
        ((), True, to_circuit),
    ):
        whole = replace(data, features=features, graphs=graphs, moves=(None,) * len(graphs))
        assert link in findings_section(whole, served)


def test_the_feature_nearest_to_its_bound(made, vocabulary):
    features = planted(made[3])
    (reading,) = features.layers
    reached = reading.outputs.contexts.values[reading.outputs.features, 0]
    share = reached / reading.most
    found = feature_bound(features, vocabulary)
    low = replace(features, layers=(replace(reading, most=100 * reading.most.abs()),))
    assert feature_bound(low, vocabulary) is None
    assert feature_bound(planted(made[3], most=None), vocabulary) is None
    tight = reading.most.clone()
    tight[5] = reached[5] * 1.01 if reached[5] > 0 else tight[5]
    near = feature_bound(planted(made[3], most=torch.maximum(tight, reached * 1.01)), vocabulary)
    assert near.reached / near.most == pytest.approx(1 / 1.01, rel=1e-3)
    assert found is None or found.reached / found.most == pytest.approx(float(share.max()), rel=1e-5)


def test_a_pair_that_writes_and_computes_opposites(made, vocabulary):
    model, _, pair, features = made
    assert opposite_features(planted(features), vocabulary) is None
    encoder, decoder = pair.outputs.encoder.clone(), pair.outputs.decoder.clone()
    encoder[:, 6], decoder[6] = -encoder[:, 2], -decoder[2]
    layer = feature_layer(model, 1, pair.inputs, replace(pair.outputs, encoder=encoder, decoder=decoder))
    told = opposition(layer, decoder)
    found = opposite_features(planted(features, opposition=told), vocabulary)
    assert {found.left.feature, found.right.feature} == {2, 6}
    assert (found.cosine, found.similarity) == (pytest.approx(-1), pytest.approx(-1, abs=1e-4))
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(decoder.shape, generator=generator), dim=1)
    assert found.lowest_random == pytest.approx(float((rows @ rows.T).min()), abs=1e-5)
    dense = torch.stack([layer.tensor.interaction_matrix(u).flatten() for u in layer.outputs])
    cosines = torch.nn.functional.normalize(dense, dim=1)
    sizes = (cosines @ cosines.T).abs()[~torch.eye(len(dense), dtype=torch.bool)]
    assert float(sizes.quantile(0.2)) < found.similarity_of_others < float(sizes.quantile(0.8))


def graph_and_moves(vocabulary, effect, random):
    tokens = tuple(vocabulary.words[:4])
    target = {"kind": "LogitTarget", "token": tokens[0], "against": [tokens[1]], "position": -1}
    node = Node("logit", "logit", value=2.0, position=3)
    graph = Graph((node,), (), "logit", tokens=tokens, settings={"target": target})
    one = torch.tensor([1])
    moves = HeadMoves(3, 2.0, one, one, one, torch.tensor([0.9]), torch.tensor([effect]), one * 1.0, random)
    return graph, moves


def test_a_head_has_to_carry_a_tenth_and_five_times_chance(vocabulary):
    for effect, chance, there in (
        (0.5, 0.01, True),
        (0.1, 0.01, False),
        (0.5, 0.2, False),
        (-0.5, 0.0, True),
    ):
        graph, moves = graph_and_moves(vocabulary, effect, torch.full((4,), chance))
        reason = head_reason((graph,), (moves,), vocabulary)
        assert (reason is not None) == there
        if reason is not None:
            assert (reason.graph, head_reason((graph, graph), (None, moves), vocabulary).graph) == (0, 1)
            assert (reason.layer, reason.head, reason.key, reason.effect) == (1, 1, 1, effect)
            assert reason.median == pytest.approx(chance)
    assert head_reason((graph,), (None,), vocabulary) is None


def test_directions_are_found_where_there_are_no_features(made, data):
    model = made[0]
    reading = max((one for at in data.layers for one in at.directions), key=lambda one: one.correlation)
    found = few_for_direction(data)
    if reading.correlation < 0.8:
        assert found is None
    else:
        assert found.correlation == reading.correlation
        assert found.direction == reading.direction
    bound = direction_bound(data)
    shown = data.layers[bound.layer].directions[bound.index]
    u = shown.direction.vector(unembedding(model)).detach()
    certified = certify(mlp_tensor(model, bound.layer), u, over="ball")
    assert bound.most == pytest.approx(float(certified.high), rel=1e-3)
    assert bound.reached == pytest.approx(float(shown.outputs.max()))
    assert bound.reached <= bound.most


def test_random_directions_are_explained_as_a_dense_layer_says():
    torch.manual_seed(0)
    tensor = BilinearTensor(torch.randn(5, 7), torch.randn(5, 7), torch.randn(7, 4))
    x = torch.randn(30, 5)
    found = random_directions(tensor, x, 3, 2, seed=1)
    u = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    for index in range(3):
        values, vectors = torch.linalg.eigh(tensor.interaction_matrix(u[index]))
        order = values.abs().argsort(descending=True)
        top = ((x @ vectors[:, order[:2]]).square() * values[order[:2]]).sum(1)
        expected = torch.corrcoef(torch.stack([top, tensor(x) @ u[index]]))[0, 1]
        assert float(found.correlation[index]) == pytest.approx(float(expected), abs=1e-4)
        share = values[order[:2]].square().sum() / values.square().sum()
        assert float(found.share[index]) == pytest.approx(float(share), rel=1e-4)


def test_a_turned_dictionary_keeps_lengths_and_angles(made):
    model, _, pair, _ = made
    chosen = torch.arange(8)
    probe, ranks, values = random_probe(mlp_tensor(model, 1), pair.outputs, chosen, 6, 2)
    before, after = pair.outputs.encoder, probe.outputs.encoder
    torch.testing.assert_close(after.T @ after, before.T @ before, atol=1e-4, rtol=1e-4)
    assert (after - before).norm() > 0.5 * before.norm()
    expected = eigendecompose(mlp_tensor(model, 1), after.T[chosen]).values[:, :6]
    torch.testing.assert_close(values, expected)
    assert (len(ranks), probe.vectors.shape[1]) == (8, 2)
    rotation = random_rotation(6, torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(6, dtype=torch.float64))


def test_distributions_are_those_of_the_features(made):
    features = made[3]
    (reading,) = features.layers
    found = {(one.measure, one.k): one for one in distributions(features, exact_bounds=True)}
    assert list(found)[:2] == [("rank", 0), ("active", 1)]
    assert torch.equal(found["rank", 0].values, reading.spectra.effective_rank)
    two = reading.explained.active_tokens[:, 1]
    assert torch.equal(found["active", 2].values, two[two.isfinite()])
    random = reading.random.explained.all_tokens[:, 4]
    assert torch.equal(found["all", 5].random, random[random.isfinite()])
    assert ("error", 5) in found
    assert not any(one.measure == "error" for one in distributions(features, exact_bounds=False))
    section = perspective_section(features, exact_bounds=True)
    assert section.count("<svg") == section.count("<figure") == len(found)
    assert "nan" not in section


def test_the_worst_error_is_that_of_the_rest_over_the_whole():
    torch.manual_seed(0)
    tensor = BilinearTensor(torch.randn(5, 9), torch.randn(5, 9), torch.randn(9, 4))
    values, vectors = torch.linalg.eigh(tensor.interaction_matrix(torch.ones(4)))
    order = values.abs().argsort(descending=True)
    values, vectors = values[order], vectors[:, order]
    x = torch.nn.functional.normalize(torch.randn(200_000, 5), dim=1)
    terms = (x @ vectors).square() * values
    for k in (1, 2, 4):
        expected = terms[:, k:].sum(1).abs().max() / terms.sum(1).abs().max()
        assert float(error_of_rank(values[None], k)) == pytest.approx(float(expected), rel=0.05)


def test_bars_begin_at_a_common_zero_and_histograms_count_all():
    rows = [Row("a", 3.0, ""), Row("b", -1.0, "")]
    bars = re.findall(r"--start:([\d.]+)%;--length:([\d.]+)%", compared(rows))
    assert bars == [("25.0", "75.0"), ("0.0", "25.0")]
    values = torch.tensor([0.0, 0.5, 1.0, 2.0, -1.0])
    drawn = histogram(values, values[:0], 0.0, 1.0, "says")
    parts = [float(part) for part in re.findall(r": ([\d.]+)%</title>", drawn)]
    assert sum(parts) == pytest.approx(100)
    assert len(parts) == 3
    assert 'class="null"' not in drawn
    assert drawn.count("<rect") <= N_BINS


def test_every_marked_word_is_in_the_glossary_and_no_token_marks_one(made, data, vocabulary):
    page = glossary.with_terms(
        "A <dfn>feature</dfn> and <dfn data-term='x'>more</dfn>".replace("'x'", '"chance"')
    )
    assert 'popovertarget="term-feature">feature</button>' in page
    assert page.count("popover>") == 2
    with pytest.raises(KeyError, match="no entry 'nothing'"):
        glossary.with_terms("<dfn>nothing</dfn>")
    features = with_peaks_at(planted(made[3]), 3, vocabulary.texts.index(SCRIPT))
    whole = replace(data, features=features)
    assert SCRIPT not in findings_section(whole)
    assert "<dfn" not in render(whole)
    assert "<dfn" not in glossary.with_terms(page_file("guide.html"))
    assert all(text for _, text in glossary.entries().values())
    assert len(findings(whole)) <= 4
