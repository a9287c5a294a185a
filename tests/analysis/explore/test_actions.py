"""Requests of the page, against the library used directly and against the model by hand."""

import math
from dataclasses import replace

import pytest
import torch

from analysis.circuits import LogitTarget, attribute, causal_check, open_prompt, static_circuit
from analysis.circuits.targets import FeatureTarget
from analysis.explore.actions import (
    Change,
    checked_graph,
    intervene,
    next_tokens,
    prompt_graph,
    random_direction,
    sample,
    steer,
    weight_circuit,
)
from analysis.explore.edited import Writing, with_writes
from analysis.explore.opened import Opened
from analysis.explore.session import twin
from analysis.text.windows import prompt_ids
from bilinear_lm import Dictionary, Site
from bilinear_lm.errors import InputError
from bilinear_lm.sites import mlp_inputs, replaced
from bilinear_lm.text.generate import sample as sample_texts

PROMPT = "A cat and a dog ran to the park"
NO_TEXT = Writing(max_tokens=0)


@pytest.fixture
def opened(make_model, tiny_tokenizer):
    torch.manual_seed(1)
    dictionaries = {}
    for layer in (0, 1):
        for point in ("mlp-in", "mlp-out"):
            site = Site(layer, point)
            dictionaries[site] = Dictionary(
                torch.randn(16, 24), torch.randn(24, 16), activation="topk", k=4, site=site
            )
    names = {site: [f"name {site} {i}" for i in range(24)] for site in dictionaries}
    return Opened.of(make_model(d_vocab=len(tiny_tokenizer)), tiny_tokenizer, dictionaries, names)


@pytest.fixture
def ids(opened):
    return torch.tensor([prompt_ids(opened.model, opened.tokenizer, PROMPT)])


@pytest.fixture
def graph(opened):
    return prompt_graph(opened, PROMPT, max_nodes=60)


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits[0, -1]


def test_next_tokens(opened, ids):
    found = next_tokens(opened, PROMPT, k=5)
    shares = logits(opened.model, ids).double().softmax(0)
    assert [each.token for each in found.tokens] == shares.topk(5).indices.tolist()
    assert [each.probability for each in found.tokens] == pytest.approx(shares.topk(5).values.tolist())
    assert (found.n_tokens, found.n_ctx) == (ids.shape[1], 32)
    assert len(next_tokens(opened, PROMPT, k=10**6).tokens) == len(shares)
    with pytest.raises(InputError, match="tokens; expected at most 32, shorten it"):
        next_tokens(opened, PROMPT * 9)
    with pytest.raises(InputError, match="the prompt is empty"):
        next_tokens(opened, " ")


def test_a_graph_is_that_of_attribute_with_names(opened, graph):
    prompt = open_prompt(opened.model, PROMPT, opened.dictionaries, tokenizer=opened.tokenizer)
    target = LogitTarget(prompt.likeliest(), prompt.runners_up())
    expected = attribute(prompt, target, share=0.8, max_nodes=60).graph
    assert graph.graph.edges == expected.edges
    assert [node.id for node in graph.graph.nodes] == [node.id for node in expected.nodes]
    assert graph.graph.settings["prompt"] == PROMPT
    for node in graph.graph.of_kind("feature"):
        assert node.label == f"#{node.index} name {node.site} {node.index}"


def test_a_graph_is_checked_as_trace_checks_it(opened, graph):
    check = causal_check(opened.model, graph, each_kind=True)
    settings = checked_graph(opened, graph).settings
    assert settings["check"] == check.summary()
    assert settings["checked"] == check.by_node()


def test_targets(opened):
    likeliest, second = (each.token for each in next_tokens(opened, PROMPT, 2).tokens)
    assert prompt_graph(opened, PROMPT, second, 20).target == replace(
        prompt_graph(opened, PROMPT, None, 20).target,
        token=second,
        against=(likeliest, *(each.token for each in next_tokens(opened, PROMPT, 6).tokens[2:])),
    )
    assert prompt_graph(opened, PROMPT, "a", 20).target.token == opened.vocabulary.find("a")
    on = prompt_graph(opened, PROMPT, None, 60).graph
    last = max(node.position for node in on.of_kind("feature"))
    feature = next(node for node in on.of_kind("feature") if node.position == last)
    assert prompt_graph(opened, PROMPT, f"{feature.site}-{feature.index}", 20).graph.target == feature.id
    for target, says in (
        ("7-mlp-out-1", "no dictionary of 7-mlp-out"),
        ("1-mlp-out-24", "24 does not exist"),
        ("no such token", "is not one token"),
        (10**6, "token 1000000 does not exist"),
    ):
        with pytest.raises(InputError, match=says):
            prompt_graph(opened, PROMPT, target)
        with pytest.raises(InputError, match=says):
            weight_circuit(opened, target)


def test_a_circuit_by_weights_is_that_of_static_circuit(opened):
    found = weight_circuit(opened, "1-mlp-out-3", 30)
    expected = static_circuit(
        opened.model, FeatureTarget(Site(1, "mlp-out"), 3), opened.dictionaries, max_nodes=30
    )
    assert found.edges == expected.edges
    assert found.node(found.target).label == "#3 name 1-mlp-out 3"
    assert weight_circuit(opened, 5, 30).target == "logit 5"


def changeable(graph, n):
    nodes = [node for node in graph.graph.of_kind("feature") if node.id in graph.writes]
    return [node for node in nodes if abs(node.value) > 1e-3][:n]


def test_interventions_are_those_of_causal_check(opened, graph):
    first, second, third = changeable(graph, 3)
    changes = [
        Change(first.id, factor=0.0),
        Change(second.id, value=2 * second.value),
        Change(third.id, patch=PROMPT),
    ]
    found = intervene(opened, graph, PROMPT, changes, NO_TEXT, seed=3)
    assert [one.node for one in found.changes] == [first.id, second.id, third.id]
    assert [one.factor for one in found.changes] == pytest.approx([0.0, 2.0, 1.0], abs=1e-5)
    check = causal_check(opened.model, graph, [found.changes], controls=3, seed=3)
    assert found.measured == pytest.approx(float(check.free))
    assert found.measured_held == pytest.approx(float(check.held))
    assert found.predicted == pytest.approx(float(check.predicted))
    assert found.predicted_held == pytest.approx(float(check.predicted_held))
    assert found.random == pytest.approx(check.control_free[:, 0].tolist())
    assert found.random_held == pytest.approx(check.control_held[:, 0].tolist())
    assert found.target == graph.graph.node(graph.graph.target).value


def test_what_comes_next_is_that_of_the_edited_model(opened, graph, ids):
    """The write of an ablated feature by hand: its code times its decoder row, taken away at its site."""
    (node,) = changeable(graph, 1)
    site, dictionary = Site.parse(node.site), opened.dictionaries[Site.parse(node.site)]

    def without(x):
        x = x.clone()
        x[:, node.position] -= node.value * dictionary.decoder[node.index]
        return x

    found = intervene(opened, graph, PROMPT, [Change(node.id, factor=0.0)], NO_TEXT)
    before = logits(opened.model, ids)
    with replaced(opened.model, site, without):
        after = logits(opened.model, ids)
    for said, row in ((found.before, before), (found.after, after)):
        assert said.tokens[0].token == int(row.argmax())
        assert [each.logit for each in said.tokens] == pytest.approx(row.topk(8).values.tolist(), abs=1e-4)
        assert said.text == ""
    target = graph.target
    changed = after[target.token] - after[list(target.against)].mean()
    changed -= before[target.token] - before[list(target.against)].mean()
    assert found.measured == pytest.approx(float(changed), abs=1e-4)


@pytest.mark.parametrize("prompt", [PROMPT, "a"])
def test_texts_are_written_behind_the_edited_prompt(opened, prompt):
    """Token by token from the keys and values of the prompt as it was edited, without a cache by hand."""
    graph = prompt_graph(opened, prompt, max_nodes=60)
    (node,) = changeable(graph, 1)
    found = intervene(opened, graph, prompt, [Change(node.id, factor=-3.0)], Writing(max_tokens=6))
    assert found.before.text == next(
        sample_texts(opened.model, opened.tokenizer, prompt, max_tokens=6, temperature=0.0)
    )
    write = graph.writes[node.id].times(-4.0)
    ids = prompt_ids(opened.model, opened.tokenizer, prompt)
    row = list(ids)
    for _ in range(6):
        with with_writes(opened.model, [write], len(ids)):
            row.append(int(logits(opened.model, torch.tensor([row])).argmax()))
        if row[-1] == opened.tokenizer.eos_token_id:
            break
    assert found.after.text == opened.tokenizer.decode(row, skip_special_tokens=True)


def test_patches_take_the_value_of_another_prompt(opened, graph):
    other = "A dog and a cat ran to the ball"
    (node,) = changeable(graph, 1)
    site = Site.parse(node.site)
    found = intervene(opened, graph, PROMPT, [Change(node.id, patch=other)], NO_TEXT)
    prompt = open_prompt(opened.model, other, opened.dictionaries, tokenizer=opened.tokenizer)
    measured = prompt.layers[site.layer].measured
    x = measured.mlp_out if site.point == "mlp-out" else None
    if x is None:
        layer = prompt.layers[site.layer]
        x = mlp_inputs(opened.model, prompt.measured.ids[None], [site.layer])[0, 0] * layer.block.factor
    code = opened.dictionaries[site].encode(x)[node.position, node.index]
    assert found.changes[0].factor == pytest.approx(float(code) / node.value, abs=1e-4)


def test_changes_that_cannot_be(opened, graph):
    node, other = changeable(graph, 2)
    token = graph.graph.of_kind("token")[0].id
    for changes, says in (
        ([Change(node.id)], "one of factor, value and patch"),
        ([Change(node.id, factor=0.0), Change(node.id, factor=2.0)], "comes twice"),
        ([Change("no such", factor=0.0)], "no such"),
        ([Change(graph.graph.target, factor=0.0)], "cannot be intervened on"),
        ([Change(token, patch="a")], "expected a feature"),
        ([Change(_last(graph), patch="a")], "tokens; expected"),
    ):
        with pytest.raises(InputError, match=says):
            intervene(opened, graph, PROMPT, changes, NO_TEXT)
    assert other.id != node.id


def _last(graph):
    return max(graph.graph.of_kind("feature"), key=lambda node: node.position).id


def test_steering_adds_the_direction_everywhere(opened, ids):
    site = Site(1, "mlp-out")
    found = steer(opened, PROMPT, "1-mlp-out-3", 7.0, Writing(max_tokens=5, seed=2))
    vector = 7.0 * opened.dictionaries[site].decoder[3]
    assert found.length == pytest.approx(float(vector.norm()))
    random = random_direction(vector, 2)
    assert float(random.norm()) == pytest.approx(found.length)
    assert abs(float(random @ vector)) < 0.9 * found.length**2
    for said, added in ((found.before, 0 * vector), (found.after, vector), (found.random, random)):
        row = ids[0].tolist()
        with replaced(opened.model, site, lambda x, added=added: x + added):
            first = logits(opened.model, ids)
            for _ in range(5):
                row.append(int(logits(opened.model, torch.tensor([row])).argmax()))
        assert [each.logit for each in said.tokens] == pytest.approx(first.topk(8).values.tolist(), abs=1e-4)
        assert said.text == opened.tokenizer.decode(row, skip_special_tokens=True)
    with pytest.raises(InputError, match="expected LAYER-POINT-NUMBER"):
        steer(opened, PROMPT, "three", 1.0)


def test_samples(opened):
    found = sample(opened, PROMPT, 3, Writing(max_tokens=4, temperature=0.9, seed=5))
    expected = sample_texts(
        opened.model, opened.tokenizer, PROMPT, count=3, max_tokens=4, temperature=0.9, seed=5
    )
    assert found == tuple(expected)


def test_without_dictionaries(make_model, tiny_tokenizer):
    opened = Opened.of(make_model(d_vocab=len(tiny_tokenizer)), tiny_tokenizer)
    graph = prompt_graph(opened, PROMPT, max_nodes=40)
    node = next(node for node in graph.graph.nodes if node.kind == "eigenvector")
    found = intervene(opened, graph, PROMPT, [Change(node.id, factor=0.0)], NO_TEXT)
    assert math.isfinite(found.predicted)
    assert len(found.random) == 3
    with pytest.raises(InputError, match="there is no dictionary of 1-mlp-out; expected one of none"):
        steer(opened, PROMPT, "1-mlp-out-3", 1.0)


def test_a_twin_has_the_weights_and_not_the_hooks(make_model):
    model = make_model()
    other = twin(model)
    ids = torch.tensor([[1, 2, 3]])
    for own, its in zip(model.parameters(), other.parameters(), strict=True):
        assert own.data_ptr() == its.data_ptr()
    expected = logits(model, ids)
    with replaced(model, Site(0, "mlp-out"), lambda x: 0 * x):
        assert torch.equal(logits(other, ids), expected)
        assert not torch.equal(logits(model, ids), expected)
