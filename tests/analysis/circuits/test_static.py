"""Circuits from weights: whole ones against the polynomial that weights are, and what others leave out."""

import re
from dataclasses import replace

import pytest
import torch

from analysis import attention_layer, eigendecompose, strongest_interactions
from analysis.circuits.static import static_circuit
from analysis.circuits.targets import DirectionTarget, FeatureTarget, LogitTarget
from analysis.circuits.weights.model import static_model
from analysis.graphs.files import load_graph, save_graph
from analysis.paths.tokens import token_paths
from bilinear_lm import Dictionary, InputError, Site, embedding, mlp_tensor, unembedding

WHOLE = {"share": 1.0, "beam": 10**6, "depth": 9, "heads_in_a_row": 9, "max_nodes": 10**7}
D_VOCAB, WIDTH = 5, 4


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def small_model(family_model):
    """Two layers of a small model in float64; no weight of a norm is trivial."""

    def build(**config):
        sizes = {"vocab_size": D_VOCAB, "hidden_size": WIDTH, "intermediate_size": 7, "head_dim": 2}
        heads = {"num_attention_heads": 2, "n_kv_heads": 1}
        return family_model(**(sizes | heads | config)).double()

    return build


def exact_dictionary(site, width=WIDTH, seed=0):
    """As many features as coordinates, without activation: its codes stand for every vector exactly."""
    decoder, b_dec = draw(width, width, seed=seed), draw(width, seed=seed + 1)
    return Dictionary(torch.linalg.inv(decoder), decoder, b_dec=b_dec, b_dec_to_input=True, site=site)


def dictionaries_at(*names):
    sites = [Site.parse(name) for name in names]
    return {site: exact_dictionary(site, seed=number) for number, site in enumerate(sites)}


def streams(model, token):
    """The residual stream of a prompt of one token with scales of norms 1, before and after each part."""
    x = [embedding(model)[token]]
    for layer in range(model.config.num_hidden_layers):
        attention = attention_layer(model, layer)
        written = torch.einsum("d,hde,hef->f", x[-1], attention.weights.W_V, attention.weights.W_O)
        x.append(x[-1] + written + (0 if attention.bias is None else attention.bias))
        x.append(x[-1] + mlp_tensor(model, layer)(x[-1]))
    return x


def evaluate(graph, token):
    """The target as the polynomial that a graph of coefficients is, with one token at every place."""
    values, sums = {}, dict.fromkeys((node.id for node in graph.nodes), 0.0)
    for name in graph.order:
        node, edges = graph.node(name), graph.into(name)
        if node.kind == "token":
            values[name] = float(node.index == token)
        elif node.kind == "bias":
            values[name] = 1.0
        elif node.kind == "interaction":
            inputs = [values[edge.source] for edge in edges]
            values[name] = inputs[0] * inputs[-1]
        else:
            values[name] = sums[name]
        for edge in graph.out_of(name):
            sums[edge.target] += edge.weight * values[name]
    return values[graph.target]


BIASES = {"mlp_bias": True, "attention_bias": True}
ALL_SITES = ("0-mlp-in", "0-mlp-out", "1-mlp-in", "1-mlp-out")


@pytest.mark.parametrize("config", [{}, BIASES], ids=["no biases", "biases"])
@pytest.mark.parametrize(
    "sites",
    [(), ALL_SITES, ("0-mlp-out", "1-mlp-out"), ("0-resid-mid", "1-mlp-in"), ("1-resid-mid", "1-mlp-out")],
    ids=str,
)
def test_a_whole_circuit_is_the_polynomial(small_model, config, sites):
    model, scope = small_model(**config), dictionaries_at(*sites)
    graph = static_circuit(model, LogitTarget(3, (1, 4)), scope, **WHOLE)
    assert graph.settings["left_out"] == 0
    assert graph.settings["unsplit"] == []
    W_U = unembedding(model)
    for token in range(D_VOCAB):
        x = streams(model, token)[-1]
        expected = float(x @ (W_U[:, 3] - W_U[:, [1, 4]].mean(dim=1)))
        assert evaluate(graph, token) == pytest.approx(expected, rel=1e-9)


TARGETS = [
    FeatureTarget(Site(1, "mlp-out"), 2),
    FeatureTarget(Site(1, "mlp-in"), 3),
    FeatureTarget(Site(0, "mlp-out"), 1),
    *(
        DirectionTarget(Site(1, point), draw(WIDTH))
        for point in ("resid-pre", "resid-mid", "mlp-in", "mlp-out")
    ),
    DirectionTarget(Site(0, "resid-post"), draw(WIDTH)),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{type(target).__name__} {target.site}")
def test_whole_circuits_of_other_targets(small_model, target):
    model, scope = small_model(**BIASES), dictionaries_at(*ALL_SITES)
    graph, static = static_circuit(model, target, scope, **WHOLE), static_model(model)
    for token in range(D_VOCAB):
        x = streams(model, token)
        layer, point = target.site.layer, target.site.point
        steps = {"resid-pre": 0, "resid-mid": 1, "mlp-in": 1, "mlp-out": 1, "resid-post": 2}
        at = x[2 * layer + steps[point]]
        if point == "mlp-in":
            at = at * static.layers[layer].block.factor
        elif point == "mlp-out":
            at = mlp_tensor(model, layer)(at)
        if isinstance(target, FeatureTarget):
            expected = scope[target.site].pre_activations(at)[target.feature]
        else:
            expected = at @ target.vector
        assert evaluate(graph, token) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("sites", [(), ALL_SITES], ids=str)
def test_hidden_units_and_the_order_of_gate_and_in_do_not_matter(small_model, sites):
    model, scope = small_model(**BIASES), dictionaries_at(*sites)
    limits = {"share": 0.9, "beam": 3, "depth": 2}
    first = static_circuit(model, LogitTarget(2), scope, **limits)
    for block in model.model.layers:
        mlp, order = block.mlp, torch.randperm(7)
        mlp.gate_proj, mlp.up_proj = mlp.up_proj, mlp.gate_proj
        for part in (mlp.gate_proj, mlp.up_proj):
            part.weight.data, part.bias.data = part.weight.data[order], part.bias.data[order]
        mlp.down_proj.weight.data = mlp.down_proj.weight.data[:, order]
    second = static_circuit(model, LogitTarget(2), scope, **limits)
    assert {node.id for node in first.nodes} == {node.id for node in second.nodes}
    weights = {(edge.source, edge.target): edge.weight for edge in second.edges}
    assert len(weights) == len(first.edges)
    for edge in first.edges:
        assert weights[edge.source, edge.target] == pytest.approx(edge.weight, rel=1e-7, abs=1e-9)


def test_the_same_input_gives_the_same_graph(small_model):
    model, scope = small_model(), dictionaries_at(*ALL_SITES)
    first, second = (static_circuit(model, LogitTarget(2), scope, max_nodes=60) for _ in range(2))
    assert first == second


def test_no_feature_is_there_twice_however_often_it_is_read(small_model):
    graph = static_circuit(small_model(), LogitTarget(2), dictionaries_at(*ALL_SITES), beam=4, share=0.9)
    read = [node for node in graph.of_kind("feature") if len(graph.out_of(node.id)) > 1]
    assert read  # and ids are unique, as a graph checks


@pytest.mark.parametrize("sites", [(), ALL_SITES], ids=str)
@pytest.mark.parametrize("max_nodes", [40, 10**6])
def test_what_is_pruned_is_the_rest(small_model, sites, max_nodes):
    """Of each node that a beam leaves something out of, the sums are those of the whole graph."""
    model, scope = small_model(**BIASES), dictionaries_at(*sites)
    whole = static_circuit(model, LogitTarget(2), scope, **WHOLE)
    part = static_circuit(
        model, LogitTarget(2), scope, share=0.8, beam=3, depth=2, heads_in_a_row=1, max_nodes=max_nodes
    )
    assert len(part) <= max_nodes
    assert any(pruned.count for pruned in part.pruned.values())
    for node in part.nodes:
        if node.kind == "interaction" or (not part.into(node.id) and node.id not in part.pruned):
            continue
        ours, theirs = part.into(node.id), whole.into(node.id)
        pruned = part.pruned.get(node.id)
        signed, absolute, count = (pruned.signed, pruned.absolute, pruned.count) if pruned else (0, 0, 0)
        assert len(ours) + count == len(theirs)
        assert sum(e.weight for e in ours) + signed == pytest.approx(sum(e.weight for e in theirs), abs=1e-9)
        mass = sum(abs(edge.weight) for edge in theirs)
        assert sum(abs(edge.weight) for edge in ours) + absolute == pytest.approx(mass)


def test_shares_and_beams_of_a_logit(small_model):
    model, scope = small_model(**BIASES), dictionaries_at(*ALL_SITES)
    direction, beam, share = unembedding(model)[:, 2], 3, 0.7
    graph = static_circuit(model, LogitTarget(2), scope, share=share, beam=beam)
    scores = embedding(model) @ direction
    kept = {
        graph.node(edge.source).index: edge.weight
        for edge in graph.into(graph.target)
        if graph.node(edge.source).kind == "token"
    }
    order = scores.abs().argsort(descending=True).tolist()
    squares = scores[order].square().cumsum(0) / scores.square().sum()
    n = min(beam, int((squares < share).sum()) + 1)
    assert list(kept) == order[:n]
    assert list(kept.values()) == pytest.approx(scores[order[:n]].tolist())
    assert graph.settings["shown"][graph.target]["tokens"] == pytest.approx(float(squares[n - 1]))
    # Strengths of heads are those of their virtual tokens.
    for edge in graph.into(graph.target):
        node = graph.node(edge.source)
        if node.kind == "head":
            weights = attention_layer(model, node.layer).weights
            virtual = embedding(model) @ weights.W_V[node.index] @ weights.W_O[node.index] @ direction
            assert edge.weight == pytest.approx(float(virtual.norm()))


def test_interactions_are_the_strongest_pairs(small_model):
    model, scope = small_model(**BIASES), dictionaries_at(*ALL_SITES)
    static = static_model(model, scope)
    graph = static_circuit(model, FeatureTarget(Site(1, "mlp-out"), 3), scope, share=1.0, beam=4)
    u = scope[Site(1, "mlp-out")].encoder[:, 3]
    expected = strongest_interactions(static.layers[1].features.along(u[None]), k=4)
    found = {node.id: graph.out_of(node.id)[0].weight for node in graph.of_kind("interaction")}
    for pair in expected:
        name = f"interaction 1-mlp-out 3 ({pair.left}, {pair.right})"
        assert found[name] == pytest.approx(pair.value)
        ends = {f"feature 1-mlp-in {feature}" for feature in (pair.left, pair.right)}
        assert {edge.source for edge in graph.into(name)} == ends
    whole = static_circuit(model, FeatureTarget(Site(1, "mlp-out"), 3), scope, **WHOLE)
    values = [
        whole.out_of(node.id)[0].weight
        for node in whole.of_kind("interaction")
        if node.id.startswith("interaction 1-mlp-out 3")
    ]
    shown = sum(pair.value**2 for pair in expected) / sum(value**2 for value in values)
    assert graph.settings["shown"][graph.target]["pairs"] == pytest.approx(shown)


def test_eigenvectors_of_a_direction(small_model):
    model, u = small_model(**BIASES), draw(WIDTH)
    graph = static_circuit(model, DirectionTarget(Site(1, "mlp-out"), u), share=1.0, beam=2)
    found = eigendecompose(mlp_tensor(model, 1), u)
    weights = [edge.weight for edge in graph.into(graph.target)]
    assert weights == pytest.approx(found.values[:2].tolist())
    for rank in range(2):
        node = f"eigenvector {rank} of {graph.target}"
        tokens = {graph.node(e.source).index: e.weight for e in graph.into(node) if "token" in e.source}
        direct = embedding(model) @ found.vectors[rank, :WIDTH]
        for token, weight in tokens.items():
            assert weight == pytest.approx(float(direct[token]))


def test_depth_and_heads_end_the_search(small_model):
    model = small_model()
    limits = WHOLE | {"depth": 0, "heads_in_a_row": 0}
    graph = static_circuit(model, LogitTarget(2), **limits)
    assert {node.kind for node in graph.nodes} == {"logit", "token", "direction"}
    assert sorted(graph.settings["unsplit"]) == [f"direction {n}-mlp-out > logit 2" for n in (0, 1)]
    assert graph.pruned[graph.target].count == 4  # heads
    graph = static_circuit(model, LogitTarget(2), **(WHOLE | {"heads_in_a_row": 1}))
    assert not any(re.match(r"head \d\.\d > head", node.id) for node in graph.nodes)


@pytest.mark.parametrize("max_nodes", [1, 2, 7, 25])
def test_never_more_nodes_than_allowed(small_model, max_nodes):
    for sites in ((), ALL_SITES):
        graph = static_circuit(small_model(), LogitTarget(2), dictionaries_at(*sites), max_nodes=max_nodes)
        assert len(graph) <= max_nodes
        assert graph.settings["left_out"] > 0 or len(graph) < max_nodes
        assert all(
            0 <= shown <= 1 for groups in graph.settings["shown"].values() for shown in groups.values()
        )


def test_a_graph_of_weights_goes_to_a_file_and_back(small_model, tmp_path):
    graph = static_circuit(small_model(**BIASES), LogitTarget(2), dictionaries_at(*ALL_SITES))
    save_graph(graph, tmp_path / "graph.json")
    assert load_graph(tmp_path / "graph.json") == graph
    assert graph.tokens is None
    assert all(node.position is None and node.value is None for node in graph.nodes)


def test_half_precision_is_computed_in_float32(small_model):
    model = small_model().to(torch.bfloat16)
    assert static_model(model).W_E.dtype == static_model(model).layers[0].block.folded.dtype == torch.float32
    assert len(static_circuit(model, LogitTarget(2), dictionaries_at(*ALL_SITES))) > 10


SITE = Site(0, "mlp-in")


@pytest.mark.parametrize(
    ("target", "scope", "options", "message"),
    [
        (LogitTarget(D_VOCAB), {}, {}, "token 5 does not exist; expected 0 to 4"),
        (LogitTarget(0, (7,)), {}, {}, "token 7 does not exist"),
        (FeatureTarget(SITE, 0), {}, {}, "no dictionary of 0-mlp-in"),
        (
            FeatureTarget(SITE, WIDTH),
            {SITE: exact_dictionary(SITE)},
            {},
            "feature 4 does not exist; expected 0 to 3",
        ),
        (FeatureTarget(Site(2, "mlp-in"), 0), {}, {}, "layer 2 does not exist"),
        (DirectionTarget(SITE, draw(7)), {}, {}, r"shape \[7\]; expected \[4\]"),
        (DirectionTarget(Site(0, "attn-out"), draw(WIDTH)), {}, {}, "a direction at 0-attn-out"),
        (LogitTarget(0), {Site(2, "mlp-in"): exact_dictionary(None)}, {}, "a dictionary of 2-mlp-in"),
        (LogitTarget(0), {Site(0, "resid-post"): exact_dictionary(None)}, {}, "a dictionary of 0-resid-post"),
        (LogitTarget(0), {SITE: exact_dictionary(Site(1, "mlp-in"))}, {}, "belongs to 1-mlp-in"),
        (LogitTarget(0), {SITE: exact_dictionary(None, 7)}, {}, "reads 7 numbers and writes 7; expected 4"),
        (
            LogitTarget(0),
            {SITE: replace(exact_dictionary(None), encoder_gate=draw(WIDTH, WIDTH))},
            {},
            "has a bilinear encoder",
        ),
        (
            LogitTarget(0),
            {SITE: exact_dictionary(None), Site(0, "resid-mid"): exact_dictionary(None)},
            {},
            "both describe what the MLP of layer 0",
        ),
        (LogitTarget(0), {}, {"share": 0.0}, "share=0.0"),
        (LogitTarget(0), {}, {"beam": 0}, "beam=0; expected at least 1"),
        (LogitTarget(0), {}, {"depth": -1}, "depth=-1"),
        (LogitTarget(0), {}, {"max_nodes": 0}, "max_nodes=0"),
        (LogitTarget(0), {}, {"heads_in_a_row": -1}, "heads_in_a_row=-1"),
    ],
)
def test_bad_input(small_model, target, scope, options, message):
    with pytest.raises(InputError, match=message):
        static_circuit(small_model(), target, scope, **options)


def test_models_it_cannot_follow(small_model, family_model):
    with pytest.raises(InputError, match="expected a linear one"):
        static_circuit(small_model(hidden_act="silu"), LogitTarget(0))
    with pytest.raises(InputError, match="static circuits of a gemma2 model"):
        static_circuit(family_model("Gemma2", hidden_activation="linear"), LogitTarget(0))


def test_angles_that_change_with_a_prompt_do_not_matter(family_model):
    """Circuits from weights go through values and outputs, which no position turns."""
    longrope = {
        "rope_type": "longrope",
        "rope_theta": 100.0,
        "original_max_position_embeddings": 8,
        "short_factor": [1.0, 1.3],
        "long_factor": [2.0, 5.0],
    }
    phi = {"family": "Phi3", "pad_token_id": 0, "head_dim": 4}
    models = [family_model(**phi, rope_parameters=longrope), family_model(**phi)]
    graphs = [static_circuit(model, LogitTarget(3), max_nodes=40) for model in models]
    assert [node.id for node in graphs[0].nodes] == [node.id for node in graphs[1].nodes]
    assert [edge.weight for edge in graphs[0].edges] == [edge.weight for edge in graphs[1].edges]
    paths = [token_paths(model).features.inputs for model in models]
    assert torch.equal(*paths)


def test_the_shipped_model_and_its_dictionaries():
    from analysis.circuits.labels import labelled
    from analysis.text.vocabulary import Vocabulary
    from bilinear_lm import load_dictionary, load_pretrained, load_tokenizer

    model = load_pretrained("stories")
    vocabulary = Vocabulary.of(load_tokenizer("stories"), len(embedding(model)))
    sites = [Site(layer, point) for layer in range(4) for point in ("mlp-in", "mlp-out")]
    scope = {site: load_dictionary(f"stories-scope/{site}") for site in sites}
    sad, names = vocabulary.find("sad"), {sites[-1]: [f"number {feature}" for feature in range(768)]}
    graph = labelled(static_circuit(model, LogitTarget(sad), scope), vocabulary, names)
    assert graph.node(graph.target).label == "␣sad"
    assert 100 < len(graph) <= 500
    assert {"token", "feature", "interaction", "head"} <= {node.kind for node in graph.nodes}
    labels = {node.label for node in graph.of_kind("feature") if node.site == "3-mlp-out"}
    assert all("number" in label for label in labels)
