"""`bilinear-lm diff` as a user gives it: its files, its page, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

from bilinear_lm import Dictionary, Site, load_pretrained, save_dictionary
from bilinear_lm.checkpoints import save_folder
from bilinear_lm.cli import main
from finetune.data.windows import train_tokenizer


@pytest.fixture
def models(tmp_path, make_model, tiny_tokenizer):
    """A model, one that differs in an MLP, one of a null, and dictionaries; a token holds markup."""
    tokenizer = train_tokenizer(["<b>bold</b> <script>alert(1)</script> a cat and a dog ran. " * 3], 300)
    model = make_model(d_vocab=len(tokenizer))
    save_folder(model, tokenizer, tmp_path / "a")
    for name, size in (("b", 0.3), ("null", 0.01)):
        other = load_pretrained(str(tmp_path / "a"))
        with torch.no_grad():
            other.model.layers[1].mlp.down_proj.weight.add_(size * torch.randn(16, 24))
        save_folder(other, tokenizer, tmp_path / name)
    for point in ("mlp-in", "mlp-out"):
        made = Dictionary(
            torch.randn(16, 20), torch.randn(20, 16), activation="topk", k=4, site=Site(1, point)
        )
        save_dictionary(made, tmp_path / "scope" / f"1-{point}")
    return tmp_path


def run(folder, *arguments):
    given = [part.format(folder=folder) for part in arguments]
    return main(["diff", "-o", str(folder / "out"), "--device", "cpu", *given])


def test_files_and_page(models, capsys, open_page):
    both = ("{folder}/a", "{folder}/b", "--null", "{folder}/null")
    assert run(models, *both, "--dictionaries", "{folder}/scope", "-k", "3", "--page") == 0
    told = capsys.readouterr().out.strip().splitlines()
    assert told[-1] == str(models / "out")
    result = json.loads((models / "out" / "diff.json").read_text(), parse_constant=pytest.fail)
    assert result["settings"]["null"] == ["null"]
    assert (result["layers"][0]["change"], result["layers"][0]["directions"]) == (0, [])
    assert result["layers"][1]["relative"] > 0.01
    assert {each["along"] for each in result["layers"][1]["directions"]} == {"token", "feature", "singular"}
    assert {each["layer"] for each in result["strongest"]} == {1}
    assert result["score"] == result["strongest"][0]["score"] > 0
    tensors = load_file(models / "out" / "diff.safetensors")
    assert tensors["MLP.1.change"].item() == pytest.approx(result["layers"][1]["change"])
    assert tensors["layer.1.input"].shape == (16,)
    page = (models / "out" / "diff.html").read_text()
    assert "<script>alert" not in page
    assert "<b>" not in page
    tab = open_page(models / "out" / "diff.html", width=400)
    assert tab.locator("h1").inner_text() == "From a to b"
    assert tab.locator("#strongest tbody tr").count() == min(40, len(result["strongest"]))
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400


def test_nothing_changed(models, capsys):
    assert run(models, "{folder}/a", "{folder}/a", "--page") == 0
    assert "no difference" in capsys.readouterr().out
    result = json.loads((models / "out" / "diff.json").read_text())
    assert (result["score"], result["strongest"]) == (0, [])
    assert "Nothing: no part differs" in (models / "out" / "diff.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{folder}/a", "stories"), "stories: its tokenizer has"),
        (("{folder}/a", "{folder}/none"), "none"),
        (("{folder}/a", "{folder}/wide"), "the second model has another shape: layers 2 and 3"),
        (("{folder}/a", "{folder}/gated"), "expected a linear one: make the model bilinear"),
        (("{folder}/a", "{folder}/b", "--null", "{folder}/wide"), "a model of the null has another shape"),
        (("{folder}/a", "{folder}/b", "--k", "0"), "--k 0"),
        (("{folder}/a", "{folder}/b", "--dictionaries", "{folder}/none"), "no such folder"),
        (("{folder}/a", "{folder}/b", "-o", "{folder}"), "exists already"),
    ],
)
def test_refused(models, make_model, capsys, arguments, said):
    from bilinear_lm import load_tokenizer

    tokenizer = load_tokenizer(str(models / "a"))
    for name, options in (("wide", {"n_layers": 3}), ("gated", {"gate": "silu"})):
        if any(name in part for part in arguments):
            save_folder(make_model(d_vocab=len(tokenizer), **options), tokenizer, models / name)
    names = {path.name for path in models.iterdir()}
    assert run(models, *arguments) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert {path.name for path in models.iterdir()} == names
