"""Commands give the same results on another device as on the CPU."""

import json

import pytest
import torch
from safetensors.torch import load_file

from bilinear_lm import Dictionary, Site, save_dictionary
from bilinear_lm.checkpoints import save_folder
from bilinear_lm.cli import main

from .compare import numbers, same
from .stand_in import AROUND_NORMS, other_device

D, N_FEAT = 16, 20
TEXT = "a cat and a dog ran to the park. They saw a big red ball. " * 4
SCOPE = ("--dictionary", "scope/1-mlp-out")
COMMANDS = {
    "eigen of tokens": ("eigen model --layer 1 -k 3 -o", ("--tokens", "cat", "cat - ran")),
    "eigen of features": ("eigen model --layer 1 -k 3 -o", SCOPE),
    "hosvd": ("hosvd model --layer 1 --k 3 -o", ()),
    "interactions": (
        "interactions model --layer 1 --inputs scope/1-mlp-in --outputs scope/1-mlp-out --k 5 -o",
        ("--contexts", "text.txt"),
    ),
    "polynomial": ("polynomial model --degrees 1 2 --tokens 100 -o", ("--contexts", "text.txt")),
    "trace": ("trace model --dictionaries scope --contexts text.txt -o", ("--prompt", "a cat and")),
    "trace a feature": ("trace model --dictionaries scope --feature 1-mlp-out-3 -o", ()),
    "trace a head": ("trace model --head 1.2 -o", ("--prompt", "a cat and a dog")),
    "trace eigenvectors": ("trace model --eigenvectors -o", ("--token", "cat")),
    "generate": ("generate model --max-tokens 12 --temperature 0 -o", ("--prompt", "a cat")),
    "report": (
        "report model --dictionaries scope --contexts text.txt --features 4 --directions 2 -o",
        ("--text", "a cat and a dog"),
    ),
}


NOT_COMPARED = ("device", "settings", "directions_sha256")
"""What a record says of the device, and of numbers to their last bit."""


@AROUND_NORMS
@pytest.mark.parametrize("name", COMMANDS)
def test_commands(name, tmp_path, make_model, tiny_tokenizer, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_folder(make_model(d_vocab=len(tiny_tokenizer)), tiny_tokenizer, tmp_path / "model")
    torch.manual_seed(0)
    for point in ("mlp-in", "mlp-out"):
        site = Site(1, point)
        dictionary = Dictionary(
            torch.randn(D, N_FEAT), torch.randn(N_FEAT, D), activation="topk", k=4, site=site
        )
        save_dictionary(dictionary, tmp_path / "scope" / str(site))
    (tmp_path / "text.txt").write_text(TEXT)
    words, rest = COMMANDS[name]
    command = words.split()
    assert main([*command, "cpu", *rest, "--device", "cpu"]) == 0
    with other_device():
        assert main([*command, "cuda", *rest, "--device", "cuda"]) == 0
    same(written(tmp_path / "cuda"), written(tmp_path / "cpu"))


def written(path):
    """The numbers in a file or folder that a command wrote; of a page and of text that they are there."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.suffix in (".json", ".safetensors")]
        return [number for file in files for number in written(file)]
    if path.suffix == ".safetensors":
        return numbers(dict(sorted(load_file(path).items())))
    text = path.read_text()
    if not text.startswith(("{", "[")):
        return [len(text) > 0]
    told = json.loads(text)
    return numbers([value for key, value in told.items() if key not in NOT_COMPARED])
