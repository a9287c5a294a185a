"""`bilinear-lm edit` as a user gives it: the checkpoint it writes, its record, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from bilinear_lm import Dictionary, Site, load_pretrained, save_dictionary
from bilinear_lm.checkpoints import save_folder
from bilinear_lm.cli import main
from finetune import interaction
from finetune.editing.config import Named, parse


@pytest.fixture
def files(tmp_path, make_model, tiny_tokenizer):
    """A tiny bilinear checkpoint, dictionaries around its second MLP, and two named vectors."""
    save_folder(make_model(d_vocab=len(tiny_tokenizer)), tiny_tokenizer, tmp_path / "model")
    torch.manual_seed(0)
    made = {}
    for name in ("mlp-in", "mlp-out", "resid-mid"):
        made[name] = Dictionary(
            torch.randn(16, 20), torch.randn(20, 16), activation="topk", k=4, site=Site(1, name)
        )
        save_dictionary(made[name], tmp_path / name)
    save_file({"up": torch.randn(16), "left": torch.randn(16)}, tmp_path / "own.safetensors")
    return tmp_path, made


def run(folder, *arguments, layer="1"):
    given = [part.format(folder=folder) for part in arguments]
    options = ["--layer", layer, "--device", "cpu", "-o", str(folder / "out")]
    return main(["edit", str(folder / "model"), *options, *given])


BOTH = ("--inputs", "{folder}/mlp-in", "--outputs", "{folder}/mlp-out")


def test_edit(files, capsys):
    folder, made = files
    arguments = (
        "--delete",
        "3:5,7",
        "--scale",
        "3:2=0.5",
        "--insert",
        "4:5,left=0.25",
        "--keep",
        "9",
        "left",
    )
    assert run(folder, *BOTH, *arguments[:-1], "--directions", "{folder}/own.safetensors") == 0
    told = capsys.readouterr().out.strip().splitlines()
    assert told[0].startswith("3:5,7 ")
    assert told[-2].startswith("layer 1: 3 hidden units")
    assert told[-1] == str(folder / "out")
    record = json.loads((folder / "out" / "edit.json").read_text(), parse_constant=pytest.fail)
    assert [row["how"] for row in record["interactions"]] == ["delete", "scale", "insert"]
    assert (record["source"], record["settings"]["inputs"], record["n_units"]) == ("model", "mlp-in", 3)
    deleted, scaled, inserted = record["interactions"]
    assert deleted["after"] == pytest.approx(0, abs=1e-6)
    assert scaled["after"] == pytest.approx(scaled["before"] / 2, abs=1e-6)
    assert inserted["after"] == pytest.approx(inserted["before"] + 0.25, abs=1e-6)
    again = AutoModelForCausalLM.from_pretrained(folder / "out", dtype=torch.float32).eval()
    own = load_pretrained(str(folder / "out"))
    ids = torch.arange(20).view(2, 10)
    with torch.inference_mode():
        assert torch.equal(again(ids).logits, own(ids).logits)
    f, g = made["mlp-in"].decoder[[5, 7]]
    assert interaction(again, 1, made["mlp-out"].encoder[:, 3], (f, g)) == pytest.approx(0, abs=1e-6)


def test_features_behind_the_norm_s_weight(files):
    """A dictionary at resid-mid describes x / rms(x), of which the MLP reads γ times."""
    folder, made = files
    model = load_pretrained(str(folder / "model"))
    u, f = made["mlp-out"].encoder[:, 3], made["resid-mid"].decoder[5]
    before = interaction(
        model, 1, u, (x := f * model.model.layers[1].post_attention_layernorm.weight.detach(), x)
    )
    assert run(folder, "--inputs", "{folder}/resid-mid", *BOTH[2:], "--scale", "3:5=3") == 0
    (row,) = json.loads((folder / "out" / "edit.json").read_text())["interactions"]
    assert (row["before"], row["after"]) == pytest.approx((before, 3 * before), abs=1e-6)


def test_spelling():
    assert parse("540:12,33", "delete") == Named("delete", "540", ("12", "33"))
    assert parse(" 540 : 12 =-2.5", "insert") == Named("insert", "540", ("12", "12"), -2.5)
    assert parse("a:b,c=1", "scale").text == "a:b,c"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no edits; expected one or more of --delete"),
        (("--delete", "3:5,5"), "names 5 twice; write it once"),
        (("--delete", "3:5,7=2"), "does not exist"),
        (("--delete", "3:5,6,7"), "expected OUTPUT:LEFT,RIGHT"),
        (("--scale", "3:5,7"), "expected OUTPUT:LEFT,RIGHT=FACTOR"),
        (("--insert", "3:5,7=nan"), "is no finite number"),
        (("--insert", "3:5,7=1e400"), "is no finite number"),
        (("--delete", "20:5,7"), "output feature '20' does not exist; expected 0 to 19"),
        (("--delete", "3:5,-7"), "input feature '-7' does not exist"),
        (("--delete", "3:5,7", "3:7,5"), "3:7,5 is edited twice"),
        (("--delete", "3:5,7", "--keep", "7"), "--keep names 7, an input of 3:5,7"),
        (("--delete", "3:5,7", "--keep", "2", "2"), "--keep names 2 twice"),
        (("--delete", "3:5,7", "--keep", *map(str, range(8, 20)), "0", "1", "2", "4"), "singular dual"),
        (("--delete", "3:5,7", "--directions", "{folder}/none.safetensors"), "no such file"),
        (("--delete", "3:5,7", "--outputs", "{folder}/resid-mid"), "expected one of 1-mlp-out"),
        (("--delete", "3:5,7", "--layer", "2"), "layer 2 does not exist"),
        (("--delete", "3:5,7", "-o", "{folder}"), "exists already"),
    ],
)
def test_refused(files, capsys, arguments, said):
    folder, _ = files
    names = {path.name for path in folder.iterdir()}
    assert run(folder, *BOTH, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("bilinear-lm: ")
    assert said in error
    assert {path.name for path in folder.iterdir()} == names


def test_models_that_cannot_be_edited(files, make_model, tiny_tokenizer, capsys):
    folder, _ = files
    save_folder(make_model(gate="silu", d_vocab=len(tiny_tokenizer)), tiny_tokenizer, folder / "gated")
    (folder / "model").rename(folder / "bilinear")
    (folder / "gated").rename(folder / "model")
    assert run(folder, *BOTH, "--delete", "3:5,7") == 2
    assert "make the model bilinear with finetune.convert" in capsys.readouterr().err
    (folder / "model").rename(folder / "gated")
    (folder / "bilinear").rename(folder / "model")
    assert run(folder, *BOTH[:2], "--delete", "3:5,7") == 2
    assert "feature '3' of no dictionary; expected one by --outputs" in capsys.readouterr().err
    assert not (folder / "out").exists()
