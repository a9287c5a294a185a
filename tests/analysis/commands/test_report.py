"""`bilinear-lm report` with dictionaries: what it writes, and what bad input gives."""

import json
from importlib.resources import files

import pytest
import torch

from analysis.commands.report import PROMPT, SHOWN_FIRST
from bilinear_lm import Dictionary, Site, load_tokenizer, save_dictionary
from bilinear_lm.checkpoints import save_folder
from bilinear_lm.cli import main
from bilinear_lm.dictionaries import load_dictionary

from ..report.pages import data_in, data_of

FEW = ["--directions", "1", "--text", "a cat", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path, make_model, tiny_tokenizer):
    """A tiny checkpoint, dictionaries around its second MLP, and a text."""
    save_folder(make_model(d_vocab=len(tiny_tokenizer)), tiny_tokenizer, tmp_path / "model")
    torch.manual_seed(0)
    for point in ("mlp-in", "mlp-out"):
        dictionary = Dictionary(
            torch.randn(16, 20), torch.randn(20, 16), activation="topk", k=4, site=Site(1, point)
        )
        save_dictionary(dictionary, tmp_path / "scope" / f"1-{point}")
    (tmp_path / "text.txt").write_text("a cat and a dog ran to the park.\n<|endoftext|>\nThey saw a ball.\n")
    return tmp_path


def arguments(folder, *more):
    return ["report", str(folder / "model"), "-o", str(folder / "page.html"), *FEW, *map(str, more)]


def test_features_of_given_dictionaries(folder):
    given = arguments(folder, "--dictionaries", folder / "scope", "--contexts", folder / "text.txt")
    assert main([*given, "--features", "7"]) == 0
    (layer,) = data_of((folder / "page.html").read_text())["layers"]
    assert layer["layer"] == 1
    assert (len(layer["in"]["id"]), len(layer["out"]["id"]), layer["out"]["nFeat"]) == (7, 7, 20)


def test_a_name_without_html_is_a_folder(folder, capsys):
    given = arguments(folder, "--dictionaries", folder / "scope", "--contexts", folder / "text.txt")
    for output, features in (("page.html", 9), ("report", 9), ("report", 9)):
        given[3] = str(folder / output)
        assert main([*given, "--features", str(features)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(folder / name) for name in ("page.html", *2 * ["report/index.html"])]
    assert data_in(folder / "report") == data_of((folder / "page.html").read_text())
    assert str(folder) not in (folder / "report" / "report.json").read_text()
    assert main([*given, "--features", "8"]) == 2
    assert "features: n_features 9, not 8" in capsys.readouterr().err
    given[3] = str(folder / "text.txt")
    assert main(given) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_graph_of_a_prompt(folder):
    given = arguments(folder, "--dictionaries", folder / "scope", "--contexts", folder / "text.txt")
    for more in (given, arguments(folder)):
        assert main([*more, "--prompt", "a cat and a"]) == 0
        page = (folder / "page.html").read_text()
        (graph,) = json.loads(page.split('id="graph-data">')[1].split("</script>")[0])
        assert "".join(graph["texts"]).endswith("a cat and a")
        assert ("feature" in graph["kind"]) == (more is given)
    assert main(arguments(folder)) == 0
    assert "graph-data" not in (folder / "page.html").read_text()


def test_no_features_where_none_are_asked_for(folder):
    assert main(arguments(folder)) == 0
    assert "feature-data" not in (folder / "page.html").read_text()
    given = arguments(folder, "--dictionaries", folder / "scope", "--contexts", folder / "text.txt")
    assert main([*given, "--features", "0"]) == 0
    assert "feature-data" not in (folder / "page.html").read_text()


def test_the_model_that_ships_has_features(tmp_path):
    page = tmp_path / "page.html"
    assert main(["report", "-o", str(page), *FEW, "--layers", str(SHOWN_FIRST[0]), "--features", "500"]) == 0
    found = data_of(page.read_text())
    assert found["nTokens"] > 10_000
    (layer,) = found["layers"]
    place = found["first"][1]
    assert (layer["layer"], layer["out"]["id"][place]) == SHOWN_FIRST
    text = page.read_text()
    on_prompt, static, of_finding = json.loads(text.split('id="graph-data">')[1].split("</script>")[0])
    assert "".join(on_prompt["texts"]).endswith(PROMPT)
    assert static["id"][static["target"]] == f"feature {SHOWN_FIRST[0]}-mlp-out {SHOWN_FIRST[1]}"
    site, number = (of_finding[name][of_finding["target"]] for name in ("site", "index"))
    assert f'href="#circuit-{site}-{number}">Its circuit</a>' in text
    assert all(
        label.startswith(f"#{number}")
        for label, number, site in zip(static["label"], static["index"], static["site"], strict=True)
        if site in (layer["in"]["site"], layer["out"]["site"]) and number is not None
    )


def test_the_text_that_ships_is_of_tokens_the_model_knows():
    text = (files("bilinear_lm") / "models" / "stories.txt").read_text(encoding="utf-8")
    tokenizer = load_tokenizer("stories")
    documents = [part.strip() for part in text.split("<|endoftext|>")]
    assert len(documents) == 93
    assert all(document.startswith("One day") for document in documents[:-1])
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert load_dictionary("stories-scope/3-mlp-out").n_feat > SHOWN_FIRST[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--dictionaries", "scope"], "--dictionaries scope without --contexts"),
        (["--contexts", "text.txt"], "--contexts text.txt without --dictionaries"),
        (["--dictionaries", "nowhere", "--contexts", "text.txt"], "nowhere: no such folder"),
        (["--dictionaries", "scope", "--contexts", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--dictionaries", "scope", "--contexts", "empty.txt"], "the text is empty"),
        (["--dictionaries", "scope", "--contexts", "text.txt", "--features", "-1"], "--features -1"),
        (
            ["--dictionaries", "scope", "--contexts", "text.txt", "--layers", "0"],
            "dictionaries are of layers 1",
        ),
        (["--dictionaries", "model", "--contexts", "text.txt"], "no layer has a dictionary"),
        (["--dictionaries", "other", "--contexts", "text.txt"], "width 12, expected 16"),
    ],
)
def test_refusals(folder, capsys, monkeypatch, more, said):
    monkeypatch.chdir(folder)
    (folder / "empty.txt").write_text(" \n")
    narrow = Dictionary(torch.randn(12, 20), torch.randn(20, 12), site=Site(1, "mlp-in"))
    save_dictionary(narrow, folder / "other" / "1-mlp-in", format="saelens")
    assert main(arguments(folder, *more)) == 2
    told = capsys.readouterr().err
    assert said in told.strip().splitlines()[-1]
    assert not (folder / "page.html").exists()


def test_a_model_that_is_not_bilinear_is_read_through_quadratics(
    tmp_path, make_model, tiny_tokenizer, capsys
):
    model = make_model(gate="silu", d_vocab=len(tiny_tokenizer))
    save_folder(model, tiny_tokenizer, tmp_path / "model")
    (tmp_path / "text.txt").write_text("a cat and a dog ran to the park. They saw a ball. " * 60)
    torch.manual_seed(0)
    for point in ("mlp-in", "mlp-out"):
        dictionary = Dictionary(
            torch.randn(16, 20), torch.randn(20, 16), activation="topk", k=4, site=Site(1, point)
        )
        save_dictionary(dictionary, tmp_path / "scope" / f"1-{point}")
    features = ["--dictionaries", tmp_path / "scope", "--contexts", tmp_path / "text.txt"]
    more = arguments(tmp_path, "--calibration", tmp_path / "text.txt", "--prompt", "a cat", *features)
    assert main(more) == 0
    page = (tmp_path / "page.html").read_text()
    lead = page.split('<p class="lead">')[1]
    assert lead.startswith("The gates of its MLPs have an activation (SiLU), so each is read through")
    assert "The MLPs of this model are not bilinear: their gates have an activation (SiLU)" in lead
    assert "Worst error, any input" not in page  # biases of the quadratics are beside the ball
    assert "Each MLP replaced, the others as they are." in lead
    assert 'id="graph-data"' in page
    assert 'id="feature-data"' in page
    assert '<th scope="row">MLP biases</th><td>no</td>' in page
    assert main(arguments(tmp_path)) == 2
    assert "is not bilinear; give a text by --calibration FILE" in capsys.readouterr().err


def test_calibration_of_a_bilinear_model_is_refused(folder, capsys):
    assert main(arguments(folder, "--calibration", folder / "text.txt")) == 2
    assert "--calibration for model, which is bilinear" in capsys.readouterr().err
