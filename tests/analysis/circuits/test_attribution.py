"""Attribution against measured values: tiny models to rounding, and the shipped one with its dictionaries."""

import pytest
import torch

from analysis.circuits.attribution import attribute
from analysis.circuits.prompt.prompt import open_prompt
from analysis.circuits.targets import (
    DirectionTarget,
    EigenvectorTarget,
    FeatureTarget,
    LogitTarget,
    ScoreTarget,
)
from analysis.graphs.effects import completeness
from analysis.graphs.elements import Pruned
from analysis.graphs.files import load_graph, save_graph
from analysis.paths.measured import measure
from analysis.spectra.eigen import eigendecompose
from bilinear_lm import InputError, load_dictionary, load_pretrained, load_tokenizer
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.sites import Site
from bilinear_lm.weights import mlp_tensor

from .random_dictionaries import ALL, IDS, SMALL, dictionaries

POINTS = {
    "none": (),
    "mlp-out": ("mlp-out",),
    "mlp-in": ("mlp-in",),
    "both": ("mlp-in", "mlp-out"),
    "resid-mid": ("resid-mid", "mlp-out"),
}


def shows_all(graph):
    """Whether nothing at all is pruned."""
    return all(part.absolute < 1e-12 for part in graph.pruned.values())


# Heads of eigenvectors are too many to have all of them.
EXACT = [(name, "paths") for name in POINTS] + [(name, "nodes") for name in ("mlp-in", "both", "resid-mid")]


@pytest.mark.parametrize(("name", "heads"), EXACT)
def test_all_contributions_add_up_in_float64(model, name, heads):
    points = POINTS[name]
    found = attribute(
        open_prompt(model.double(), IDS[:3], dictionaries(points)), LogitTarget(7, (2, 3)), heads=heads, **ALL
    )
    assert shows_all(found.graph)
    assert found.graph.shown == pytest.approx(1)
    sums = completeness(found.graph)
    logits = measure(model, IDS[:3]).logits[-1]
    assert sums.value == pytest.approx(float(logits[7] - logits[2:4].mean()), abs=1e-12)
    assert sums.largest < 1e-9
    assert sums.node_gap < 1e-9


@pytest.mark.parametrize("heads", ["paths", "nodes"])
@pytest.mark.parametrize("points", POINTS.values(), ids=POINTS)
def test_kept_and_pruned_add_up_in_float32(model, points, heads):
    given = dictionaries(points)
    found = attribute(open_prompt(model, IDS, given), LogitTarget(7), share=0.9, max_nodes=12, heads=heads)
    graph = found.graph
    assert len(graph) <= 12
    assert found.left_out > 0
    assert f"{found.left_out} more nodes pruned for max_nodes=12" in str(found)
    sums = completeness(graph)
    assert sums.largest < 1e-4
    assert sums.node_gap < 1e-4
    assert sums.value == pytest.approx(float(measure(model, IDS).logits[-1, 7]), rel=1e-5)
    # Interactions are nodes of their own: one or two inputs, one output, one number on all edges.
    for node in graph.of_kind("interaction"):
        edges = (*graph.into(node.id), *graph.out_of(node.id))
        assert len(graph.into(node.id)) in (1, 2)
        assert len(graph.out_of(node.id)) == 1
        assert {edge.weight for edge in edges} == {node.value}


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "relu", "k": None},
        {"activation": "topk", "k": 8, "signed": True},
        {"activation": "jumprelu", "k": None, "threshold": torch.full((16,), 0.1)},
        {"b_dec_to_input": True},
        {"passthrough": (0, 3)},
    ],
    ids=["relu", "signed", "jumprelu", "b_dec to input", "passthrough"],
)
def test_every_kind_of_dictionary_adds_up(family_model, settings):
    given = dictionaries(("mlp-in", "mlp-out"), n_feat=16, **settings)
    model = family_model(attention_bias=True, mlp_bias=True, **SMALL).double()
    found = attribute(open_prompt(model, IDS[:2], given), LogitTarget(7), **ALL)
    assert shows_all(found.graph)
    assert completeness(found.graph).largest < 1e-9


def test_targets_have_their_measured_values(family_model):
    model = family_model(attention_bias=True, mlp_bias=True, **SMALL).double()
    given = dictionaries(("mlp-in", "mlp-out"))
    measured, u = measure(model, IDS), torch.randn(8, dtype=torch.float64)
    layer = measured.layers[1]
    coded = given[Site(1, "mlp-out")].to(torch.float64).encode(layer.mlp_out)
    feature = int(coded[2].argmax())
    x = layer.resid_mid[4] / layer.ln2_scale[4]
    eigenvectors = eigendecompose(mlp_tensor(model, 1), u)
    scores = layer.attention.scores[1, 5]
    targets = {
        LogitTarget(7, position=2): measured.logits[2, 7],
        FeatureTarget(Site(1, "mlp-out"), feature, 2): coded[2, feature],
        DirectionTarget(Site(1, "mlp-out"), u, 3): layer.mlp_out[3] @ u,
        DirectionTarget(Site(0, "resid-post"), u): layer.resid_pre[5] @ u,
        DirectionTarget(Site(1, "resid-pre"), u): layer.resid_pre[5] @ u,
        DirectionTarget(Site(1, "resid-mid"), u): layer.resid_mid[5] @ u,
        DirectionTarget(Site(1, "resid-post"), u): measured.resid_final[5] @ u,
        EigenvectorTarget(1, u, 2, 4): eigenvectors.activations(torch.cat([x, x.new_ones(1)]))[2],
        ScoreTarget(1, 1, 5, 2): scores[2],
        ScoreTarget(1, 1, -1, 2, against=0): scores[2] - scores[0],
    }
    for target, value in targets.items():
        graph = attribute(open_prompt(model, IDS, given), target, share=0.9, max_nodes=300).graph
        sums = completeness(graph)
        assert sums.value == pytest.approx(float(value), rel=1e-9), target
        assert sums.largest < 1e-9, target
        assert graph.into(graph.target), target


@pytest.mark.parametrize("point", ["mlp-in", "resid-mid"])
def test_a_feature_before_an_mlp_is_linear_below_it(family_model, point):
    model, given = family_model(**SMALL).double(), dictionaries((point,))
    layer = measure(model, IDS).layers[0]
    x = layer.resid_mid
    if point == "mlp-in":
        x = x / layer.ln2_scale[:, None] * model.model.layers[0].post_attention_layernorm.weight.detach()
    code = given[Site(0, point)].to(torch.float64).encode(x)
    feature = int(code[4].argmax())
    graph = attribute(
        open_prompt(model, IDS, given), FeatureTarget(Site(0, point), feature, 4), attention="held", **ALL
    ).graph
    assert {node.kind for node in graph.nodes} == {"feature", "token", "bias"}
    assert completeness(graph).value == pytest.approx(float(code[4, feature]), rel=1e-9)
    assert completeness(graph).largest < 1e-9
    direction = DirectionTarget(Site(0, point), given[Site(0, point)].encoder[:, feature], 4)
    tokens = attribute(open_prompt(model, IDS, given), direction, attention="held", **ALL).graph
    for edge in tokens.into(tokens.target):
        assert edge.weight == pytest.approx(
            next(one.weight for one in graph.into(graph.target) if one.source == edge.source)
        )


def test_an_interaction_is_what_the_tensor_gives(family_model):
    model, given = family_model(**SMALL).double(), dictionaries(("mlp-in", "mlp-out"))
    site = Site(1, "mlp-out")
    coded = given[site].to(torch.float64).encode(measure(model, IDS).layers[1].mlp_out)
    feature = int(coded[5].argmax())
    graph = attribute(open_prompt(model, IDS, given), FeatureTarget(site, feature), **ALL).graph
    inputs = given[Site(1, "mlp-in")].to(torch.float64)
    tensor = mlp_tensor(model, 1, fold_norm=False)
    u = given[site].encoder[:, feature].double()
    checked = 0
    for node in (edge.source for edge in graph.into(graph.target)):
        features = [graph.node(edge.source) for edge in graph.into(node)]
        if graph.node(node).kind != "interaction" or any(part.kind != "feature" for part in features):
            continue
        left, right = features[0], features[-1]
        value = tensor(inputs.decoder[left.index], inputs.decoder[right.index]) @ u
        value = float(value) * left.value * right.value * (1 if len(features) == 1 else 2)
        assert graph.node(node).value == pytest.approx(value, rel=1e-9)
        checked += 1
    assert checked == 5 * 6 // 2


def test_paths_through_heads_are_the_sum_over_heads(family_model):
    model, given = family_model(**SMALL).double(), dictionaries(("mlp-out",), layers=(0,))
    paths = attribute(
        open_prompt(model, IDS[:4], given),
        DirectionTarget(Site(1, "resid-mid"), torch.ones(8)),
        by="weight",
        **ALL,
    ).graph
    heads = attribute(
        open_prompt(model, IDS[:4], given),
        DirectionTarget(Site(1, "resid-mid"), torch.ones(8)),
        heads="nodes",
        by="weight",
        **ALL,
    ).graph
    for edge in paths.into(paths.target):
        if paths.node(edge.source).kind == "score":  # has a slope alone
            continue

        def reached(node, source=edge.source):
            return sum(
                one.weight if one.source == source else reached(one.source)
                for one in heads.into(node)
                if one.source == source or heads.node(one.source).kind == "head"
            )

        assert reached(heads.target) == pytest.approx(edge.weight, rel=1e-9)


def test_a_score_splits_into_pairs(family_model):
    model = family_model("Qwen2", **SMALL).double()
    given = dictionaries(("mlp-out",), layers=(0,))
    graph = attribute(open_prompt(model, IDS, given), ScoreTarget(1, 1, 5, 3), **ALL).graph
    assert shows_all(graph)
    for node in graph.of_kind("interaction"):
        inputs = [graph.node(edge.source) for edge in graph.into(node.id)]
        assert {part.position for part in inputs} <= {3, 5}
    kinds = {graph.node(edge.source).kind for edge in graph.into(graph.target)}
    assert kinds == {"interaction", "bias", "feature", "head", "token", "error"}
    # Its features are followed on, as in any other graph.
    assert all(graph.into(node.id) for node in graph.of_kind("feature"))


def test_without_dictionaries_what_an_mlp_writes_is_one_source_of_a_score(family_model):
    model = family_model(**SMALL).double()
    graph = attribute(open_prompt(model, IDS), ScoreTarget(1, 1, 5, 3), **ALL).graph
    assert {node.kind for node in graph.nodes} == {"target", "interaction", "head", "token", "direction"}
    assert completeness(graph).largest < 1e-9


def test_memory_does_not_grow_with_all_pairs_of_features(family_model):
    given = dictionaries(("mlp-in", "mlp-out"), n_feat=30_000)
    found = attribute(open_prompt(family_model(**SMALL), IDS, given), LogitTarget(7), max_nodes=100)
    assert completeness(found.graph).largest < 1e-4


def test_a_graph_is_the_same_again_and_on_disk(family_model, tmp_path):
    model, given = family_model(**SMALL), dictionaries(("mlp-in", "mlp-out"))
    graph = attribute(open_prompt(model, torch.tensor([IDS]), given), LogitTarget(7), max_nodes=80).graph
    assert attribute(open_prompt(model, IDS, given), LogitTarget(7), max_nodes=80).graph == graph
    assert graph.settings["dictionaries"] == ["0-mlp-in", "0-mlp-out", "1-mlp-in", "1-mlp-out"]
    assert graph.settings["target"] == {"kind": "LogitTarget", "token": 7, "against": [], "position": -1}
    save_graph(graph, tmp_path / "graph.json")
    assert load_graph(tmp_path / "graph.json") == graph


def test_several_targets_of_a_prompt_that_is_measured_once(family_model):
    model, given = family_model(**SMALL), dictionaries(("mlp-in", "mlp-out"))
    prompt = open_prompt(model, IDS, given)
    for target in (LogitTarget(7), LogitTarget(9, (7, 8), position=3), ScoreTarget(1, 1, 5)):
        assert attribute(prompt, target).graph == attribute(open_prompt(model, IDS, given), target).graph


def test_the_smallest_graph_is_the_target_alone(family_model):
    graph = attribute(open_prompt(family_model(**SMALL), IDS), LogitTarget(7), max_nodes=1).graph
    assert [node.id for node in graph.nodes] == ["logit 7 @5"]
    assert graph.pruned["logit 7 @5"].signed == pytest.approx(graph.node("logit 7 @5").value, rel=1e-5)
    assert graph.shown == 0
    assert graph.pruned["logit 7 @5"] != Pruned()


def test_input_that_cannot_be_used(family_model):
    model, given = family_model(**SMALL), dictionaries(("mlp-in", "mlp-out"))
    active = given[Site(1, "mlp-out")].encode(measure(model, IDS).layers[1].mlp_out)
    silent = int((active[5] == 0).nonzero()[0])
    wide = dictionaries(("mlp-in",), width=4)
    transcoder = Dictionary(torch.randn(8, 12), torch.randn(12, 8), target=Site(0, "mlp-out"))
    gated = Dictionary(torch.randn(8, 12), torch.randn(12, 8), encoder_gate=torch.randn(8, 12))
    of_other = Dictionary(torch.randn(8, 12), torch.randn(12, 8), site=Site(1, "mlp-in"))
    target = LogitTarget(7)
    u = torch.ones(8)
    with pytest.raises(InputError, match="token -1 of a target; expected 0 or more"):
        LogitTarget(7, (-1,))
    for args, message in (
        (([], target), "empty prompt"),
        (([1] * 33, target), "has 33 tokens; expected 1 to 32"),
        ((IDS, LogitTarget(50)), "token 50 does not exist; expected 0 to 49"),
        ((IDS, LogitTarget(7, position=6)), "position 6 does not exist; the prompt has positions 0 to 5"),
        ((IDS, FeatureTarget(Site(0, "mlp-in"), 1)), "no dictionary of 0-mlp-in"),
        ((IDS, FeatureTarget(Site(0, "mlp-in"), 40), given), "feature 40 of 0-mlp-in does not exist"),
        ((IDS, FeatureTarget(Site(1, "mlp-out"), silent), given), "is not active at position 5; it is"),
        ((IDS, FeatureTarget(Site(2, "mlp-out"), 1), given), "layer 2 does not exist"),
        (
            (IDS, DirectionTarget(Site(0, "attn-out"), u)),
            "direction at 0-attn-out; expected one at mlp-out",
        ),
        ((IDS, DirectionTarget(Site(0, "mlp-in"), u[:4])), r"shape \[4\]; expected \[8\]"),
        ((IDS, DirectionTarget(Site(0, "mlp-in"), u / 0)), "finite numbers"),
        ((IDS, EigenvectorTarget(0, u, 8)), "eigenvector 8 does not exist; expected 0 to 7"),
        ((IDS, ScoreTarget(0, 2, 2, 1)), "head 0.2 does not exist; layer 0 has heads 0 to 1"),
        ((IDS, ScoreTarget(0, 1, 2, 3)), "position 2 does not read position 3"),
        ((IDS, target, wide), "reads 4 numbers and writes 4; expected 8"),
        ((IDS, target, {Site(0, "mlp-in"): transcoder}), r"reconstructs 0-mlp-out \(a transcoder\)"),
        ((IDS, target, {Site(0, "mlp-in"): gated}), "has a bilinear encoder or a skip connection"),
        ((IDS, target, {Site(0, "mlp-in"): of_other}), "given for 0-mlp-in belongs to 1-mlp-in"),
        (
            (IDS, target, dictionaries(("attn-out",))),
            "of 0-attn-out; expected one of layers 0 to 1",
        ),
        ((IDS, target, dictionaries(("mlp-in",), layers=(2,))), "dictionary of 2-mlp-in; expected one of"),
        ((IDS, target, dictionaries(("mlp-in", "resid-mid"))), "both describe what the MLP of layer 0 reads"),
    ):
        ids, what, *given_too = args
        with pytest.raises(InputError, match=message):
            attribute(open_prompt(model, ids, *given_too), what)
    for settings, message in (
        ({"share": 0.0}, "share=0.0; expected more than 0"),
        ({"max_nodes": 0}, "max_nodes=0; expected at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            attribute(open_prompt(model, IDS), target, **settings)
    with pytest.raises(InputError, match="has a SiLUActivation gate"):
        attribute(open_prompt(family_model(hidden_act="silu", **SMALL), IDS), target)


@pytest.fixture(scope="module")
def stories():
    sites = [Site(layer, point) for layer in range(4) for point in ("mlp-in", "mlp-out")]
    scope = {site: load_dictionary(f"stories-scope/{site}") for site in sites}
    return load_pretrained("stories"), load_tokenizer("stories"), scope


@pytest.mark.parametrize(
    ("points", "heads"),
    [
        ((), "paths"),
        (("mlp-out",), "paths"),
        (("mlp-in",), "paths"),
        (("mlp-in", "mlp-out"), "paths"),
        (("mlp-in", "mlp-out"), "nodes"),
    ],
)
def test_the_shipped_model_adds_up(stories, points, heads):
    model, tokenizer, scope = stories
    ids = tokenizer.encode("Once upon a time there was a little girl named Lily. She loved to play with")
    given = {site: dictionary for site, dictionary in scope.items() if site.point in points}
    found = attribute(
        open_prompt(model, ids, given), LogitTarget(int(measure(model, ids).logits[-1].argmax())), heads=heads
    )
    sums = completeness(found.graph)
    assert sums.largest < 1e-4
    assert sums.node_gap < 1e-5
    assert set(sums.by_layer) == {0, 1, 2, 3}
    assert found.graph.of_kind("token")


def test_a_score_of_the_shipped_model_adds_up(stories):
    model, tokenizer, scope = stories
    ids = tokenizer.encode("Tom and Lily went to the park. Lily saw a dog. Tom")
    for against in (None, 1):
        target = ScoreTarget(2, 3, -1, 0, against)
        found = attribute(open_prompt(model, ids, scope), target)
        assert completeness(found.graph).largest < 1e-4
        assert found.graph.of_kind("interaction")
