"""Graphs asked for by words: targets, names, shares, paths, and the lines that sum them up."""

import math
from dataclasses import replace

import pytest
import torch

from analysis import token_windows, top_contexts
from analysis.circuits.attribution import attribute
from analysis.circuits.prompt.prompt import open_prompt
from analysis.circuits.static import static_circuit
from analysis.circuits.targets import FeatureTarget, LogitTarget, parse_feature
from analysis.circuits.trace import trace
from analysis.features.contexts import feature_names
from analysis.features.dictionaries import around_mlps, dictionaries_in
from analysis.graphs.elements import Edge, Node, Pruned
from analysis.graphs.graph import Graph
from analysis.graphs.summary import describe, strongest_paths, summary
from analysis.text.vocabulary import Vocabulary
from analysis.text.windows import document_windows, prompt_ids
from bilinear_lm import Dictionary, InputError, Site, save_dictionary

PROMPT = "a cat and a dog"


def make_dictionary(site, seed=0, width=16, n_feat=20, k=6, **more):
    generator = torch.Generator().manual_seed(seed)
    return Dictionary(
        torch.randn(width, n_feat, generator=generator),
        torch.randn(n_feat, width, generator=generator),
        activation="topk",
        k=k,
        site=site,
        **more,
    )


@pytest.fixture
def model(make_model, tiny_tokenizer):
    return make_model(d_vocab=len(tiny_tokenizer))


@pytest.fixture
def vocabulary(tiny_tokenizer, model):
    return Vocabulary.of(tiny_tokenizer, model.config.vocab_size)


@pytest.fixture
def dictionaries():
    sites = [Site(layer, point) for layer in (0, 1) for point in ("mlp-in", "mlp-out")]
    return {site: make_dictionary(site, seed) for seed, site in enumerate(sites)}


# Targets.


def test_a_prompt_is_attributed_to_its_likeliest_token(model, tiny_tokenizer, vocabulary, dictionaries):
    graph = trace(model, tiny_tokenizer, PROMPT, dictionaries=dictionaries, max_nodes=80)
    ids = [
        tiny_tokenizer.bos_token_id,
        *tiny_tokenizer.encode(PROMPT, add_special_tokens=False),
    ]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    token = int(logits.argmax())
    prompt = open_prompt(model, ids, dictionaries, tokenizer=tiny_tokenizer)
    target = LogitTarget(token, tuple(logits.topk(6).indices[1:].tolist()))
    expected = attribute(prompt, target, max_nodes=80).graph
    assert (graph.nodes, graph.edges, graph.target) == (expected.nodes, expected.edges, expected.target)
    assert graph.tokens == tuple(ids)
    assert graph.node(graph.target).value == pytest.approx(float(target.of(logits)), rel=1e-4)
    assert graph.node(graph.target).label.startswith(f"{vocabulary.label(token)} - ")
    assert graph.settings["left_out"] > 0


def test_the_model_runs_twice_on_a_prompt(model, tiny_tokenizer):
    runs = []
    handle = model.register_forward_hook(lambda *_: runs.append(1))
    trace(model, tiny_tokenizer, PROMPT, max_nodes=10)
    handle.remove()
    assert len(runs) == 2  # to measure, and for the slopes


def test_tokens_features_and_positions_can_be_asked_for(model, tiny_tokenizer, vocabulary, dictionaries):
    ids = prompt_ids(model, tiny_tokenizer, PROMPT)
    graph = trace(model, tiny_tokenizer, PROMPT, token="cat - b, c", position=2)
    cat, b, c = map(vocabulary.find, ("cat", "b", "c"))
    assert graph.target == f"logit {cat} - mean({b}, {c}) @2"
    found = open_prompt(model, ids, dictionaries).features(Site(1, "mlp-out"))
    position, feature, code = found.listed[-1]
    assert position == len(ids) - 1
    graph = trace(model, tiny_tokenizer, PROMPT, feature=f"1-mlp-out-{feature}", dictionaries=dictionaries)
    assert graph.target == f"feature 1-mlp-out {feature} @{position}"
    assert graph.node(graph.target).value == pytest.approx(code, rel=1e-4)


def test_without_a_prompt_the_circuit_is_that_of_the_weights(model, tiny_tokenizer, vocabulary, dictionaries):
    graph = trace(model, tiny_tokenizer, token="cat", dictionaries=dictionaries, max_nodes=60)
    cat = vocabulary.find("cat")
    expected = static_circuit(model, "cat", dictionaries, max_nodes=60, tokenizer=tiny_tokenizer)
    assert graph.edges == expected.edges
    assert graph.node(graph.target).label == vocabulary.label(cat)
    assert graph.tokens is None
    graph = trace(model, tiny_tokenizer, feature="1-mlp-in-3", dictionaries=dictionaries)
    expected = static_circuit(model, FeatureTarget(Site(1, "mlp-in"), 3), dictionaries, max_nodes=200)
    assert graph.edges == expected.edges


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "nothing to trace; give a prompt, a token or a feature"),
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"prompt": 40 * PROMPT}, "expected at most 32, shorten it"),
        ({"prompt": PROMPT, "position": 90}, "position 90 does not exist"),
        ({"prompt": PROMPT, "position": -90, "token": "cat"}, "position -90 does not exist"),
        ({"token": "cat", "feature": "1-mlp-out-3"}, "expected one of them as target"),
        ({"token": "no such token"}, "is not one token of this model"),
        ({"feature": "mlp-out"}, "expected LAYER-POINT-NUMBER"),
        ({"feature": "1-nowhere-3"}, "site '1-nowhere'"),
        ({"feature": "1-mlp-out-20"}, "feature 20"),
        ({"prompt": PROMPT, "feature": "1-mlp-out-20"}, "feature 20 of 1-mlp-out does not exist"),
        ({"feature": "1-resid-mid-2"}, "there is no dictionary of 1-resid-mid"),
        ({"token": "cat", "share": 0.0}, "share=0.0"),
        ({"prompt": PROMPT, "max_nodes": 0}, "max_nodes=0"),
    ],
)
def test_wrong_input(model, tiny_tokenizer, dictionaries, given, said):
    with pytest.raises(InputError, match=said):
        trace(model, tiny_tokenizer, dictionaries=dictionaries, **given)


def test_a_gate_that_is_not_linear(make_model, tiny_tokenizer):
    model = make_model(d_vocab=len(tiny_tokenizer), gate="silu")
    for given in ({"prompt": PROMPT}, {"token": "cat"}):
        with pytest.raises(InputError, match="bilinear-lm convert"):
            trace(model, tiny_tokenizer, **given)


def test_features_are_written_as_sites_with_a_number():
    assert parse_feature("2-mlp-out-17") == (Site(2, "mlp-out"), 17)
    assert parse_feature("0-resid-mid-0") == (Site(0, "resid-mid"), 0)


# Names.


TEXT = "Once upon a time a cat ran.\n<|endoftext|>\nThey saw a big red ball and were happy. A dog ran."


def test_names_are_those_of_contexts(model, tiny_tokenizer, vocabulary, dictionaries):
    windows = document_windows(tiny_tokenizer, TEXT, 12)
    names = feature_names(model, dictionaries, windows, vocabulary, skip=1)
    assert names.keys() == dictionaries.keys()
    for site, found in names.items():
        contexts = top_contexts(model, dictionaries[site], windows, skip=1, tokenizer=tiny_tokenizer)
        assert found == contexts.names
    assert feature_names(model, {}, windows, vocabulary) == {}


def test_documents_are_separated_by_the_end_of_text(tiny_tokenizer):
    ids = tiny_tokenizer.encode(
        tiny_tokenizer.eos_token.join(part.strip() for part in TEXT.split("<|endoftext|>")),
        add_special_tokens=False,
    )
    assert document_windows(tiny_tokenizer, TEXT, 500) == [[tiny_tokenizer.bos_token_id, *ids]]
    assert token_windows(tiny_tokenizer, "a cat", 9) == document_windows(tiny_tokenizer, " a cat ", 9)
    with pytest.raises(InputError, match="the text is empty"):
        document_windows(tiny_tokenizer, " <|endoftext|> \n", 9)


def test_features_and_interactions_of_a_graph_are_named(model, tiny_tokenizer, vocabulary, dictionaries):
    graph = trace(model, tiny_tokenizer, PROMPT, dictionaries=dictionaries, text=TEXT, max_nodes=120)
    windows = document_windows(tiny_tokenizer, TEXT, 32)
    names = feature_names(model, dictionaries, windows, vocabulary, skip=1)
    for node in graph.of_kind("feature"):
        assert node.label == f"#{node.index} {names[Site.parse(node.site)][node.index]}"
    pairs = graph.of_kind("interaction")
    assert pairs
    for node in pairs:
        inputs = [graph.node(edge.source).text for edge in graph.into(node.id)]
        assert sorted(node.label.split(" × ")) == sorted(inputs if len(inputs) == 2 else inputs * 2)
    plain = trace(model, tiny_tokenizer, PROMPT, dictionaries=dictionaries, max_nodes=120)
    assert [node.id for node in plain.nodes] == [node.id for node in graph.nodes]


# Folders.


def test_dictionaries_of_a_folder_by_site(tmp_path, model):
    sites = [
        Site(0, "mlp-in"),
        Site(0, "resid-mid"),
        Site(0, "mlp-out"),
        Site(1, "resid-mid"),
        Site(1, "resid-pre"),
    ]
    for site in sites:
        save_dictionary(make_dictionary(site), tmp_path / str(site))
    (tmp_path / "notes.txt").write_text("about them")
    found = dictionaries_in(tmp_path, model)
    assert sorted(found) == sorted(sites)
    assert sorted(around_mlps(found)) == [Site(0, "mlp-in"), Site(0, "mlp-out"), Site(1, "resid-mid")]


# Strengths, paths and summaries, by hand.


@pytest.fixture
def small():
    """t = 6 = 4 (pair a·b) + 3 (token 5) - 2 (error) + 1 that is not shown."""
    nodes = (
        Node("logit 7 @1", "logit", position=1, index=7, label="x", value=6.0),
        Node("interaction p @1", "interaction", layer=0, position=1, label="a × b", value=4.0),
        Node(
            "feature 0-mlp-in 1 @1",
            "feature",
            layer=0,
            position=1,
            index=1,
            site="0-mlp-in",
            label="a",
            value=2.0,
        ),
        Node(
            "feature 0-mlp-in 2 @1",
            "feature",
            layer=0,
            position=1,
            index=2,
            site="0-mlp-in",
            label="b",
            value=2.0,
        ),
        Node("token 5 @0", "token", position=0, index=5, label="one"),
        Node("token 6 @1", "token", position=1, index=6, label="two"),
        Node("error 0-mlp-out @1", "error", layer=0, position=1, site="0-mlp-out"),
    )
    edges = (
        Edge("interaction p @1", "logit 7 @1", 4.0),
        Edge("token 5 @0", "logit 7 @1", 3.0),
        Edge("error 0-mlp-out @1", "logit 7 @1", -2.0),
        Edge("feature 0-mlp-in 1 @1", "interaction p @1", 4.0),
        Edge("feature 0-mlp-in 2 @1", "interaction p @1", 4.0),
        Edge("token 6 @1", "feature 0-mlp-in 1 @1", 2.0),
        Edge("token 5 @0", "feature 0-mlp-in 2 @1", 1.5),
        Edge("token 6 @1", "feature 0-mlp-in 2 @1", 0.5),
    )
    pruned = {"logit 7 @1": Pruned(1.0, 1.0, 3)}
    return Graph(nodes, edges, "logit 7 @1", tokens=(5, 6), texts=("one", " two"), pruned=pruned)


def test_shares_on_a_prompt_add_up(small, model, tiny_tokenizer, dictionaries):
    shares = small.shares()
    assert shares["interaction p @1"] == pytest.approx(0.4)
    assert shares["token 5 @0"] == pytest.approx(0.3 + 0.2 * 0.75)
    graph = trace(model, tiny_tokenizer, PROMPT, dictionaries=dictionaries)
    shares, split = graph.shares(), {edge.target for edge in graph.edges} | set(graph.pruned)
    ends = sum(share for node, share in shares.items() if node not in split)
    assert graph.shown == pytest.approx(ends)


def test_shares_of_weights_are_squares_within_a_group():
    sources = {"token 1": 3.0, "token 2": -4.0, "head 0.1": 5.0, "feature 0-mlp-out 4": 2.0, "bias 0": 1.0}
    kinds = {"token 1": "token", "token 2": "token", "head 0.1": "head", "bias 0": "bias"}
    nodes = [Node("logit 7", "logit")]
    for name in sources:
        kind = kinds.get(name, "feature")
        nodes.append(Node(name, kind, layer=0, index=4, site="0-mlp-out" if kind == "feature" else None))
    edges = tuple(Edge(name, "logit 7", weight) for name, weight in sources.items())
    shown = {"tokens": 0.5, "heads": 0.8, "features of 0-mlp-out": 0.1}
    graph = Graph(tuple(nodes), edges, "logit 7", settings={"shown": {"logit 7": shown}})
    found = graph.shares()
    assert found["token 1"] == pytest.approx(0.5 * 9 / 25)
    assert found["token 2"] == pytest.approx(0.5 * 16 / 25)
    assert (found["head 0.1"], found["feature 0-mlp-out 4"], found["bias 0"]) == pytest.approx(
        (0.8, 0.1, 1.0)
    )
    # Followed to the end is the mean over tokens, heads and features, biases left out.
    assert graph.shown == pytest.approx((0.5 + 0.8 + 0.1) / 3)


def test_a_part_of_a_graph_of_weights_shows_less():
    """Parts are of all squares: a node's share does not grow where others are taken out."""
    nodes = (Node("logit 7", "logit"), *(Node(f"token {n}", "token", index=n) for n in (1, 2)))
    edges = (Edge("token 1", "logit 7", 3.0), Edge("token 2", "logit 7", -4.0))
    graph = Graph(nodes, edges, "logit 7", settings={"shown": {"logit 7": {"tokens": 0.5, "heads": 0.0}}})
    smaller = graph.prune(2).graph
    assert smaller.shares() == pytest.approx({"logit 7": 1.0, "token 2": 0.5 * 16 / 25})
    assert smaller.settings["shown"] == {"logit 7": {"tokens": pytest.approx(0.5 * 16 / 25), "heads": 0.0}}
    assert graph.shown == pytest.approx(0.5 / 2)  # of no head anything is shown


def test_the_strongest_nodes_of_a_static_circuit_stay(model, tiny_tokenizer, dictionaries):
    graph = trace(model, tiny_tokenizer, token="cat", dictionaries=dictionaries)
    shares = graph.shares()
    others = sorted((node for node in shares if node != graph.target), key=shares.__getitem__, reverse=True)
    kept = graph.prune(6).graph
    inputs = {edge.source for node in graph.of_kind("interaction") for edge in graph.into(node.id)}
    assert {node for node in others[:3] if node not in inputs} <= {node.id for node in kept.nodes}
    assert all(share <= shares[node] + 1e-9 for node, share in kept.shares().items())
    assert 0 < graph.shown <= 1


def test_groups_of_static_circuits_are_those_of_their_settings(model, tiny_tokenizer, dictionaries):
    """What is kept of each group has the part of the squares that the circuit says it shows."""
    for given in (dictionaries, None):
        graph = trace(model, tiny_tokenizer, token="cat", dictionaries=given)
        parts = graph.parts
        for node, shown in graph.settings["shown"].items():
            kept = sum(parts[edge] for edge in graph.into(node) if graph.node(edge.source).kind != "bias")
            assert kept == pytest.approx(sum(part for part in shown.values()), abs=1e-6)


def test_strongest_paths_by_hand(small):
    paths = strongest_paths(small, k=3)
    assert [path.nodes[1:] for path in paths] == [
        ("token 5 @0",),
        ("interaction p @1", "feature 0-mlp-in 1 @1", "token 6 @1"),
        ("interaction p @1", "feature 0-mlp-in 2 @1", "token 5 @0"),
    ]
    assert [path.share for path in paths] == pytest.approx([0.3, 0.2, 0.15])
    (error,) = strongest_paths(small, ends=("error",))
    assert (error.nodes[-1], error.share) == ("error 0-mlp-out @1", pytest.approx(0.2))
    assert sum(path.share for path in strongest_paths(small, k=50)) == pytest.approx(0.7)


def test_strongest_paths_against_all_of_them(model, tiny_tokenizer, dictionaries):
    graph = trace(model, tiny_tokenizer, PROMPT, dictionaries=dictionaries, max_nodes=60)
    parts = graph.parts

    def walk(name):
        if graph.node(name).kind == "token":
            yield 1.0
        for edge in graph.into(name):
            yield from (parts[edge] * rest for rest in walk(edge.source))

    expected = sorted(walk(graph.target), reverse=True)[:7]
    assert [path.share for path in strongest_paths(graph, 7)] == pytest.approx(expected)
    for path in strongest_paths(graph, 7):
        steps = list(zip(path.nodes, path.nodes[1:], strict=False))
        assert math.prod(parts[edge] for edge in graph.edges if (edge.target, edge.source) in steps) > 0


def test_a_summary_tells_what_there_is(small):
    text = summary(small)
    assert text.startswith("x  [logit 7 @1]  at ␣two = 6.000\n")
    assert "+3.000  one  [token 5 @0]  at one" not in text  # through b, too
    assert "  +6.000  one  [token 5 @0]  at one" in text
    assert "  +4.000  a × b  [interaction p @1]  at ␣two" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    paths = lines[lines.index("strongest paths to tokens, by share") + 1 :][:2]
    assert paths == ["30% one", "20% a × b <- a <- two"]
    assert "7 nodes, 8 edges; 3 weaker contributions are not shown" in text


def test_summaries_of_traces(model, tiny_tokenizer, dictionaries):
    for given in (dictionaries, None):
        on_prompt = summary(trace(model, tiny_tokenizer, PROMPT, dictionaries=given, max_nodes=50))
        assert "probability" in on_prompt
        assert "strongest interactions, by effect" in on_prompt
        assert "more nodes were strong enough and pruned for max_nodes=50" in on_prompt
        static = summary(trace(model, tiny_tokenizer, token="cat", dictionaries=given))
        assert "from weights alone" in static
        assert "by share" in static
    assert max(map(len, on_prompt.splitlines())) < 220


def test_squares_and_long_labels_are_told_shortly(small):
    nodes = (
        Node("a", "logit", value=1.0),
        Node("b", "interaction", value=1.0),
        Node("c", "eigenvector", layer=2, index=4),
    )
    graph = Graph(nodes, (Edge("b", "a", 1.0), Edge("c", "b", 1.0)), "a")
    assert describe(graph, graph.node("b")) == "(eigenvector 4 of MLP 2)²  [b]"
    nodes = tuple(replace(node, label=90 * "w") if node.id == "token 5 @0" else node for node in small.nodes)
    long = replace(small, nodes=nodes)
    assert len(describe(long, long.node("token 5 @0"))) < 90
