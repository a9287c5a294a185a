"""Graphs for circuit-tracer's frontend and Neuronpedia: held against their schema, decoded as they decode."""

import json
import math

import pytest

from analysis.graphs.elements import Edge, Node
from analysis.graphs.export import save_circuit_tracer, to_circuit_tracer
from analysis.graphs.files import load_graph
from analysis.graphs.graph import Graph
from analysis.graphs.nodes import (
    bias_node,
    eigenvector_node,
    error_node,
    feature_node,
    head_node,
    interaction_node,
    logit_node,
    token_node,
)
from analysis.text.vocabulary import Vocabulary, joined
from bilinear_lm import InputError
from bilinear_lm.cli import main
from bilinear_lm.sites import POINTS, Site
from finetune.data.windows import train_tokenizer

OUT, IN = Site(2, "mlp-out"), Site(2, "mlp-in")
STORY = "One day a girl was sad. Her mom gave her a big hug, and she was happy. She ran to the park.\n"

# The published schema in our words: for each key its JSON types, and whether it is required.
NUMBER, TEXT, WHOLE, LIST = (int, float), (str,), (int,), (list,)
NOTHING = (type(None),)
METADATA = {
    "slug": (TEXT, True),
    "scan": (TEXT, True),
    "prompt_tokens": (LIST, True),
    "prompt": (TEXT, True),
    "node_threshold": (NUMBER, False),
    # Of circuit-tracer's own model of the file:
    "transcoder_list": (LIST, True),
    "schema_version": (WHOLE, True),
    # Ours; readers pass over keys that they do not know.
    "bilinear_lm": ((dict,), False),
}
Q_PARAMS = {
    "pinnedIds": (LIST, True),
    "supernodes": (LIST, True),
    "linkType": (TEXT, True),
    "clickedId": (TEXT, True),
    "sg_pos": (TEXT, True),
}
NODE = {
    "node_id": (TEXT, True),
    "feature": (WHOLE, True),
    "layer": (TEXT, True),
    "ctx_idx": (WHOLE, True),
    "feature_type": (TEXT, True),
    "jsNodeId": (TEXT, True),
    "clerp": (TEXT, True),
    "influence": (NUMBER + NOTHING, False),
    "activation": (NUMBER + NOTHING, False),
    "token_prob": (NUMBER, False),
    "is_target_logit": ((bool,), False),
    "run_idx": (WHOLE, False),
    "reverse_ctx_idx": (WHOLE, False),
    "slope": (NUMBER, False),
}
LINK = {"source": (TEXT, True), "target": (TEXT, True), "weight": (NUMBER, True), "slope": (NUMBER, False)}


def fits(value, schema):
    """Whether a JSON object has the keys of a schema, all of their types, and no others."""
    assert value.keys() <= schema.keys()
    for key, (kinds, required) in schema.items():
        assert key in value or not required, key
        if key in value:
            assert isinstance(value[key], kinds), (key, value[key])
            assert bool in kinds or not isinstance(value[key], bool), key


def as_published(written):
    """A file's object, held against the schema, with what readers take for granted."""
    assert written.keys() == {"metadata", "qParams", "nodes", "links"}
    fits(written["metadata"], METADATA)
    assert all(isinstance(text, str) for text in written["metadata"]["prompt_tokens"])
    fits(written["qParams"], Q_PARAMS)
    for node in written["nodes"]:
        fits(node, NODE)
        assert node["ctx_idx"] < len(written["metadata"]["prompt_tokens"])
    for link in written["links"]:
        fits(link, LINK)
    ids = [node["node_id"] for node in written["nodes"]]
    assert len(set(ids)) == len(ids)
    assert len({node["jsNodeId"] for node in written["nodes"]}) == len(ids)
    # Neuronpedia gathers nodes by this, and shows the label of the first.
    assert len({(node["layer"], node["feature"], node["ctx_idx"]) for node in written["nodes"]}) == len(ids)
    assert {end for link in written["links"] for end in (link["source"], link["target"])} <= set(ids)
    return written


def of_id(node_id):
    """Layer, number and position as circuit-tracer takes them from an id; layer -1 for an embedding."""
    if node_id.startswith("E_"):
        number, position = map(int, node_id[2:].split("_"))
        return -1, number, position
    layer, number, position = map(int, node_id.split("_"))
    return layer, number, position


def of_pairing(feature):
    """Layer and number as Neuronpedia takes them from `feature`, in the floating point of JavaScript."""
    w = math.floor((math.sqrt(8 * feature + 1) - 1) / 2)
    number = feature - (w * w + w) // 2
    return w - number, number


def decoded(graph, written):
    """Checks that each node is read as what it is."""
    as_published(written)
    tops = {node["layer"] for node in written["nodes"] if node["feature_type"] == "logit"}
    assert len(tops) <= 1
    numbers = {node.index for node in graph.of_kind("feature", "token", "logit")}
    for ours, node in zip(graph.nodes, written["nodes"], strict=True):
        layer, number, position = of_id(node["node_id"])
        assert position == node["ctx_idx"] == (ours.position or 0)
        if ours.kind == "feature":
            assert (layer, number) == (ours.layer, ours.index)
            assert of_pairing(node["feature"]) == (ours.layer, ours.index)
            assert (int(node["layer"]), node["feature_type"]) == (ours.layer, "cross layer transcoder")
        elif ours.kind == "token":
            assert (layer, number, node["layer"]) == (-1, ours.index, "E")
            assert node["feature"] == (ours.index if ours.position is None else ours.position)
        elif ours.kind == "error":
            assert (layer, number, node["feature"]) == (ours.layer, -1, -1)
        elif ours.kind == "logit":
            assert int(node["layer"]) == layer > max((n.layer or 0 for n in graph.nodes), default=0)
            assert number == node["feature"]
            assert ours.index in (None, number)
            assert float(node["clerp"].split("(p=")[1].split(")")[0]) == pytest.approx(
                node["token_prob"], abs=5e-4
            )
        else:
            assert node["feature_type"] == ours.kind
            assert of_pairing(node["feature"]) == (layer, number)
            assert layer == (ours.layer or 0)
            assert number not in numbers


def every_kind():
    """A graph with a node of each kind, two of what could be taken for each other."""
    logit, other = logit_node([31], position=4, value=2.0), logit_node([31], [40, 41], 4, 1.0)
    out, same = feature_node(OUT, 17, 1, 2.0), feature_node(IN, 17, 1, 1.0)
    stream = feature_node(Site(2, "resid-mid"), 17, 1, 0.5)
    nodes = (
        logit,
        other,
        out,
        same,
        stream,
        feature_node(OUT, 17, 3, 2.0),
        feature_node(Site(0, "mlp-in"), 0, 0, 2.0),
        feature_node(Site(1, "mlp-in"), 0, 0, 2.0),
        feature_node(Site(0, "mlp-out"), 1, 0, 2.0),
        feature_node(OUT, 131_071, 1, 2.0),
        interaction_node(out, ("17", "17"), "squared", 1.0),
        interaction_node(out, ("17", "3"), "both", 1.0),
        eigenvector_node(out, 0, 1.0),
        eigenvector_node(out, 17, 1.0),
        head_node(2, 17, logit, 1, 0, 1.0),
        head_node(2, 17, out, 1, 0, 1.0),
        error_node(OUT, 1),
        error_node(IN, 1),
        error_node(Site(1, "mlp-in"), 1),
        bias_node("2-mlp-in", 2),
        bias_node("embedding"),
        token_node(17, 0),
        token_node(17, 1),
        token_node(4, 2),
    )
    edges = tuple(Edge(node.id, logit.id, 1.0 + i) for i, node in enumerate(nodes[1:]))
    return Graph(nodes, edges, logit.id, tokens=(17, 4, 5, 6, 7), texts=("a", "b", "c", "d", "e"))


def test_every_kind_of_node_is_read_as_what_it_is():
    graph = every_kind()
    written = to_circuit_tracer(graph, "kinds")
    decoded(graph, written)
    ids = {ours.id: node["node_id"] for ours, node in zip(graph.nodes, written["nodes"], strict=True)}
    # The first of a block has the plain id; readers take the others' layers for the same number.
    assert ids["feature 2-resid-mid 17 @1"] == "2_17_1"
    assert ids["feature 2-mlp-in 17 @1"] == "02_17_1"
    assert ids["feature 2-mlp-out 17 @1"] == "002_17_1"
    assert ids["feature 2-mlp-out 17 @3"] == "2_17_3"
    assert (ids["error 2-mlp-in @1"], ids["error 2-mlp-out @1"]) == ("2_-1_1", "02_-1_1")
    assert ids["token 17 @1"] == "E_17_1"
    assert ids["logit 31 @4"] == "3_31_4"


def test_the_pairing_is_that_of_the_schema():
    pairs = [(layer, number) for layer in (0, 1, 2, 25, 41) for number in (0, 1, 2, 5943, 16_383, 1_048_575)]
    nodes = tuple(feature_node(Site(layer, "mlp-out"), number, 0) for layer, number in pairs)
    written = to_circuit_tracer(Graph(nodes, (), nodes[0].id), "pairs")
    for (layer, number), node in zip(pairs, written["nodes"], strict=True):
        assert node["feature"] == (layer + number) * (layer + number + 1) / 2 + number
        assert node["node_id"] == f"{layer}_{number}_0"


def test_metadata_and_influence():
    graph = every_kind()
    written = to_circuit_tracer(graph, "by_hand-1", n_layers=12)
    assert written["metadata"] == {
        "slug": "by_hand-1",
        "scan": "bilinear-lm",
        "transcoder_list": ["0-mlp-in", "0-mlp-out", "1-mlp-in", "2-mlp-in", "2-mlp-out", "2-resid-mid"],
        "prompt_tokens": ["a", "b", "c", "d", "e"],
        "prompt": "abcde",
        "schema_version": 1,
        "bilinear_lm": {"followed": {"weight": 1.0}},
    }
    logit = written["nodes"][0]
    assert (logit["node_id"], logit["is_target_logit"]) == ("12_31_4", True)
    assert sum(node["is_target_logit"] for node in written["nodes"]) == 1
    # Shares are proportional to the weights 1 to 23; the strongest come first.
    shares = [weight / 276 for weight in range(23, 0, -1)]
    influence = sorted(node["influence"] for node in written["nodes"])
    assert influence[0] == logit["influence"] == 0
    assert influence[1:] == pytest.approx([sum(shares[: i + 1]) for i in range(23)])


def test_weights_alone_have_no_prompt():
    nodes = (
        feature_node(OUT, 1),
        feature_node(IN, 1),
        token_node(5),
        token_node(9),
        eigenvector_node(feature_node(OUT, 1), 0),
    )
    graph = Graph(nodes, (Edge(nodes[2].id, nodes[0].id, 1.0),), nodes[0].id)
    written = to_circuit_tracer(graph, "weights")
    decoded(graph, written)
    assert written["metadata"]["prompt_tokens"] == [""]
    assert written["metadata"]["prompt"] == ""


@pytest.fixture
def quick(tmp_path):
    """A short text to name features by, and where to compute."""
    (tmp_path / "text.txt").write_text(STORY)
    return ["--contexts", str(tmp_path / "text.txt"), "--device", "cpu"]


def test_a_shipped_model_on_a_prompt(tmp_path, quick):
    prompt = "Her mom gave her a big"
    given = ["trace", "--prompt", prompt, "--max-nodes", "80", *quick]
    assert main([*given, "-o", str(tmp_path / "graph.json")]) == 0
    path = tmp_path / "hug_1-a.json"
    assert main([*given, "-o", str(path), "--format", "circuit-tracer"]) == 0
    graph, written = load_graph(tmp_path / "graph.json"), json.loads(path.read_text())
    decoded(graph, written)
    assert written["metadata"]["slug"] == path.stem
    assert written["metadata"]["prompt"] == prompt
    assert written["metadata"]["prompt_tokens"] == list(graph.texts)
    features = graph.of_kind("feature")
    assert len(features) > 20
    assert sum(" ␣" in node.label for node in features) > len(features) / 4


@pytest.mark.parametrize(
    "options",
    [
        ["--feature", "3-mlp-out-540"],
        ["--token", "swim - run, fly", "--eigenvectors"],
        ["--prompt", "Her mom gave her a big", "--head", "2.3"],
    ],
)
def test_other_targets_of_a_shipped_model(options, tmp_path, quick):
    given = ["trace", *options, "--max-nodes", "40", *quick]
    for name, form in (("graph", "graph"), ("theirs", "circuit-tracer")):
        assert main([*given, "-o", str(tmp_path / f"{name}.json"), "--format", form]) == 0
    decoded(load_graph(tmp_path / "graph.json"), json.loads((tmp_path / "theirs.json").read_text()))


@pytest.mark.parametrize("text", ["naïve café", "🙂👩‍👩‍👧", "한국어 漢字", "plain"])
def test_a_prompt_is_text(text):
    # A byte-level tokenizer that splits these characters, and writes a blank as Ġ.
    tokenizer = train_tokenizer(["a cat and a dog"], 270)
    vocabulary = Vocabulary.of(tokenizer, len(tokenizer))
    ids = tokenizer.encode(f"a {text} b", add_special_tokens=False)
    texts = tuple(vocabulary.texts[token] for token in ids)
    nodes = tuple(token_node(token, position) for position, token in enumerate(ids))
    graph = Graph(nodes, (), nodes[0].id, tokens=tuple(ids), texts=texts)
    written = as_published(to_circuit_tracer(graph, "text"))
    assert written["metadata"]["prompt"] == f"a {text} b"
    assert len(written["metadata"]["prompt_tokens"]) == len(ids)


def test_bytes_that_are_no_text_are_marked():
    assert joined(["a", "⟨0xF0⟩", "⟨0x9F⟩", "b", "⟨0xE2⟩⟨0x82⟩", "⟨0xAC⟩"]) == "a�b€"


@pytest.mark.parametrize("name", ["my graph.json", "a.b.json", "ü.json", "graph", "graph.txt", ".json"])
def test_a_name_that_readers_cannot_look_up(name, tmp_path, capsys):
    given = ["trace", "--prompt", "a cat", "--format", "circuit-tracer", "-o", str(tmp_path / name)]
    assert main(given) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert f"{name}: readers of circuit-tracer's format look a graph up by its file's name" in said
    assert list(tmp_path.iterdir()) == []


def test_slugs_and_numbers(tmp_path):
    graph = every_kind()
    save_circuit_tracer(graph, tmp_path / "g_1.json")
    assert json.loads((tmp_path / "g_1.json").read_text()) == to_circuit_tracer(graph, "g_1")
    save_circuit_tracer(graph, tmp_path / "any name", "upload")
    assert json.loads((tmp_path / "any name").read_text())["metadata"]["slug"] == "upload"
    with pytest.raises(InputError, match=r"slug '\.\./x' of a graph; expected letters"):
        to_circuit_tracer(graph, "../x")
    for number in (math.nan, math.inf):
        odd = Graph((Node("a", "target", value=number),), (), "a")
        with pytest.raises(InputError, match=r"odd\.json: a graph that JSON cannot hold"):
            save_circuit_tracer(odd, tmp_path / "odd.json")


def test_points_are_told_apart_in_the_order_of_a_block():
    nodes = tuple(feature_node(Site(0, point), 3, 0) for point in reversed(POINTS))
    graph = Graph(nodes, (), nodes[0].id)
    written = to_circuit_tracer(graph, "points")
    decoded(graph, written)
    assert [node["layer"] for node in written["nodes"]] == ["0" * n for n in range(len(POINTS), 0, -1)]
