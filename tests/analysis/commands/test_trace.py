"""`bilinear-lm trace`: what it writes and says, and what bad input gives."""

import json
from pathlib import Path

import pytest
import torch

from analysis.graphs.files import load_graph
from analysis.paths.measured import measure
from analysis.text.windows import prompt_ids
from bilinear_lm import (
    Dictionary,
    Site,
    load_dictionary,
    load_pretrained,
    load_tokenizer,
    save_dictionary,
)
from bilinear_lm.checkpoints import save_folder
from bilinear_lm.cli import main
from bilinear_lm.dictionaries.names import save_feature_names

PROMPT = "Lily was sad because her toy was broken. Her mom gave her a big"
TEXT = "a cat and a dog ran to the park.\n<|endoftext|>\nThey saw a ball.\n"


@pytest.fixture
def folder(tmp_path, make_model, tiny_tokenizer, monkeypatch):
    """A tiny checkpoint, one that is not bilinear, dictionaries around an MLP, and a text."""
    for name, gate in (("model", "linear"), ("swiglu", "silu")):
        save_folder(make_model(d_vocab=len(tiny_tokenizer), gate=gate), tiny_tokenizer, tmp_path / name)
    torch.manual_seed(0)
    for place, width, point in (("scope", 16, "mlp-in"), ("scope", 16, "mlp-out"), ("other", 12, "mlp-in")):
        dictionary = Dictionary(
            torch.randn(width, 20), torch.randn(20, width), activation="topk", k=4, site=Site(1, point)
        )
        save_dictionary(dictionary, tmp_path / place / f"1-{point}")
    stream = Dictionary(torch.randn(16, 20), torch.randn(20, 16), site=Site(1, "resid-pre"))
    save_dictionary(stream, tmp_path / "stream" / "1-resid-pre", format="saelens")
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "empty.txt").write_text(" \n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_model_that_ships_has_features_with_names(tmp_path, capsys):
    path = tmp_path / "graph.json"
    assert main(["trace", "--prompt", PROMPT, "--max-nodes", "120", "-o", str(path), "--device", "cpu"]) == 0
    graph = load_graph(path)
    assert len(graph) <= 120
    assert graph.node(graph.target).label.startswith("␣hug - ")
    features = graph.of_kind("feature")
    assert features
    assert all(node.label.startswith(f"#{node.index}") for node in features)
    assert sum(" ␣" in node.label for node in features) > len(features) / 2
    said = capsys.readouterr().out
    assert said.startswith("␣hug - ␣box, ,, ␣bite, ␣toy, ␣red  [logit 691 - mean(614, 13,")
    assert "at ␣big = 2.641, probability 40.1%\n" in said
    assert "strongest interactions, by effect" in said
    assert said.endswith(f"{path}\n")


def test_weights_alone_and_eigenvectors(folder, capsys):
    assert main(["trace", "model", "--token", "cat", "-o", "graph.json"]) == 0
    graph = load_graph("graph.json")
    assert graph.tokens is None
    assert graph.of_kind("eigenvector")
    assert "from weights alone" in capsys.readouterr().out
    assert main(["trace", "--prompt", "Once upon a time", "--eigenvectors", "-o", "e.json"]) == 0
    graph = load_graph("e.json")
    assert graph.of_kind("eigenvector")
    assert not graph.of_kind("feature")


@pytest.mark.parametrize("form", ["graph", "circuit-tracer"])
def test_why_a_head_looks_where_it_does(folder, form, capsys):
    given = ["trace", "model", "--prompt", "a cat and a dog", "--head", "1.0", "--position", "3"]
    assert main([*given, "--key", "2", "-o", "graph.json", "--format", form, "--page", "graph.html"]) == 0
    assert "score 1.0 @3<-2" in (folder / "graph.json").read_text()
    assert r"score 1.0 @3\u003c-2" in (folder / "graph.html").read_text()
    assert "score 1.0 @3<-2" in capsys.readouterr().out


def test_by_default_where_it_looks_most(folder):
    model, tokenizer = load_pretrained("model"), load_tokenizer("model")
    ids = prompt_ids(model, tokenizer, "a cat and a dog")
    pattern = measure(model, ids).layers[1].attention.pattern[0, -1]
    assert main(["trace", "model", "--prompt", "a cat and a dog", "--head", "1.0", "-o", "graph.json"]) == 0
    assert load_graph("graph.json").target == f"score 1.0 @{len(ids) - 1}<-{int(pattern.argmax())}"


def test_given_dictionaries_and_text(folder):
    given = ["trace", "model", "--feature", "1-mlp-out-3", "--dictionaries", "scope", "-o", "graph.json"]
    assert main(given) == 0
    graph = load_graph("graph.json")
    assert graph.target == "feature 1-mlp-out 3"
    named = {node.index: node.label for node in graph.of_kind("feature") if node.site == "1-mlp-in"}
    assert all(label.startswith(f"#{index} weights: reads ") for index, label in named.items())
    dictionary = load_dictionary("scope/1-mlp-in")
    site, feature = Site(1, "mlp-in"), min(named)
    save_feature_names(Path("names.json"), {site: {feature: "my own"}}, {site: dictionary})
    assert main([*given, "--contexts", "text.txt", "--names", "names.json"]) == 0
    labels = {node.id: node.label for node in load_graph("graph.json").of_kind("feature")}
    assert all(label.startswith("#") for label in labels.values())
    assert f"#{feature} my own" in labels.values()
    assert main(["trace", "model", "--prompt", "a cat", "--names", "names.json"]) == 2


def test_the_schema_of_circuit_tracer(folder):
    given = ["trace", "model", "--prompt", "a cat", "--format", "circuit-tracer", "-o", "graph_1.json"]
    assert main(given) == 0
    written = json.loads((folder / "graph_1.json").read_text())
    assert written["metadata"]["slug"] == "graph_1"
    assert written["metadata"]["prompt"] == "a cat"
    (target,) = [node for node in written["nodes"] if node["is_target_logit"]]
    assert target["layer"] == "2"


def test_a_page_of_the_graph(folder):
    assert main(["trace", "model", "--prompt", "a cat", "-o", "graph.json", "--page", "graph.html"]) == 0
    page = (folder / "graph.html").read_text()
    data = json.loads(page.split('id="graph-data">')[1].split("</script>")[0])
    graph = load_graph("graph.json")
    assert data[0]["id"] == [node.id for node in graph.nodes]
    assert len(data[0]["edges"]) == 6 * len(graph.edges)
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert len(page) < 500_000


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "nothing to trace"),
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "a cat and " * 40], "expected at most 32, shorten it"),
        (["--token", "zebra"], "'zebra' is not one token"),
        (["--token", "cat", "--position", "2"], "--position 2 without --prompt"),
        (["--prompt", "a cat", "--position", "40"], "position 40 does not exist"),
        (["--token", "cat", "--head", "1.0"], "token 'cat' and head '1.0'; expected one of them as target"),
        (["--prompt", "a cat", "--key", "0"], "key 0 without a head"),
        (["--head", "1.0"], "head 1.0 without a prompt"),
        (["--prompt", "a cat", "--head", "1"], "head '1'; expected LAYER.HEAD"),
        (["--prompt", "a cat", "--head", "2.0"], "head 2.0 does not exist; expected 0.0 to 1."),
        (["--prompt", "a cat", "--head", "1.0", "--key", "40"], "position 40 does not exist"),
        (["--prompt", "a cat", "--head", "1.0", "--position", "0", "--key", "1"], "key"),
        (["--feature", "1-mlp-out-3"], "there is no dictionary of 1-mlp-out"),
        (["--feature", f"1-mlp-out-{'9' * 5000}"], "expected LAYER-POINT-NUMBER"),
        (["--feature", f"{'9' * 5000}-mlp-out-1"], "expected {layer}-{point} with one of"),
        (["--prompt", "a cat", "--head", f"1.{'9' * 5000}"], "expected LAYER.HEAD"),
        (["--feature", "1-mlp-out-99", "--dictionaries", "scope"], "feature 99"),
        (["--token", "cat", "--dictionaries", "nowhere"], "nowhere: no such folder"),
        (["--token", "cat", "--dictionaries", "other"], "width 12, expected 16"),
        (["--token", "cat", "--dictionaries", "stream"], "no dictionary at mlp-in, resid-mid or mlp-out"),
        (["--token", "cat", "--dictionaries", "scope", "--eigenvectors"], "expected one of the two"),
        (["--token", "cat", "--dictionaries", "scope", "--contexts", "no.txt"], "no.txt: no such file"),
        (["--token", "cat", "--dictionaries", "scope", "--contexts", "empty.txt"], "the text is empty"),
        (["--token", "cat", "--share", "2"], "share=2.0"),
        (["--token", "cat", "--max-nodes", "0"], "max_nodes=0"),
        (["--token", "cat", "--page", "model"], "is a folder"),
    ],
)
def test_refusals(folder, capsys, given, said):
    assert main(["trace", "model", "-o", "graph.json", *given]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert said in told[-1]
    assert not (folder / "graph.json").exists()


@pytest.mark.parametrize("given", [["--prompt", "a cat"], ["--token", "cat"]])
def test_a_model_that_is_not_bilinear_is_to_be_converted(folder, capsys, given):
    assert main(["trace", "swiglu", "-o", "graph.json", *given]) == 2
    assert "bilinear-lm convert" in capsys.readouterr().err


def test_a_check_in_the_model(folder, capsys):
    given = ["trace", "model", "--prompt", "a cat ran", "--max-nodes", "40", "-o", "graph.json"]
    assert main([*given, "--check", "2", "--page", "page.html"]) == 0
    said = capsys.readouterr().out
    assert "checked in the model, 2 " in said
    assert "of the absolute slopes and" in said
    graph = load_graph("graph.json")
    checked = graph.settings["check"]
    assert all(numbers["n"] <= 2 for numbers in checked.values())
    data = json.loads(Path("page.html").read_text().split('id="graph-data">')[1].split("</script>")[0])
    assert [row[0] for row in data[0]["check"]] == list(checked)
    ids = [data[0]["id"][row[0]] for row in data[0]["checked"]]
    assert ids == list(graph.settings["checked"])
    assert len(ids) == sum(numbers["n"] for numbers in checked.values())
    # A page has a check by default, and none where it is not wanted.
    assert main([*given, "--page", "page.html"]) == 0
    assert sum(numbers["n"] for numbers in load_graph("graph.json").settings["check"].values()) > len(ids)
    for options in (["--page", "page.html", "--check", "0"], []):
        assert main([*given, *options]) == 0
        assert "check" not in load_graph("graph.json").settings
    assert main([*given, "--format", "circuit-tracer", "--check", "2"]) == 0
    metadata = json.loads(Path("graph.json").read_text())["metadata"]["bilinear_lm"]
    assert metadata["check"] == checked
    assert set(metadata["followed"]) == {"slope", "weight"}


def test_what_is_chosen_and_followed(folder):
    given = ["trace", "model", "--prompt", "a cat ran", "--max-nodes", "60", "-o", "graph.json"]
    for options, by, attention in (
        ([], "slope", "held"),
        (["--by", "weight"], "weight", "held"),
        (["--attention", "followed"], "slope", "followed"),
    ):
        assert main([*given, *options]) == 0
        graph = load_graph("graph.json")
        assert (graph.by, graph.settings["attention"]) == (by, attention)
        assert bool(graph.of_kind("score")) == (attention == "followed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "a cat", "--check", "100000"], "a check of 100000 nodes; expected at most the"),
        (["--prompt", "a cat", "--check", "-1"], "check=-1 nodes; expected"),
        (["--token", "cat", "--check", "3"], "trace: --check 3 without --prompt"),
    ],
)
def test_checks_that_cannot_be(folder, options, message, capsys):
    assert main(["trace", "model", *options, "-o", "graph.json"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("graph.json").exists()
