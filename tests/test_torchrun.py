"""Commands and analyses in two processes as torchrun starts them: the same bytes as from one, and a kill."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from analysis import eigendecompose_to_folder, load_decomposition, trace_prompts
from bilinear_lm import BilinearTensor, Dictionary, InputError, Site, save_dictionary
from bilinear_lm.checkpoints import save_folder
from bilinear_lm.distributed import alone, divided, gather_texts, process_group, together

SCRIPT = """
import os, pathlib, signal, sys, torch
from datetime import timedelta
from safetensors.torch import load_file
import analysis.spectra.eigen_run as run
from analysis import certify_features, interaction_index
from analysis.features import FeatureLayer
from bilinear_lm.distributed import alone, divided, gather_texts, process_group, together
from bilinear_lm import BilinearTensor, InputError, load_dictionary, load_pretrained
from bilinear_lm.cli import main

torch.set_num_threads(1)
folder = pathlib.Path(sys.argv[1])
model, scope = str(folder / "model"), folder / "scope"
ends = ["--inputs", str(scope / "1-mlp-in"), "--outputs", str(scope / "1-mlp-out")]
text = ["--contexts", str(folder / "text.txt"), "--device", "cpu"]
few = ["--directions", "1", "--text", "a cat", "--dictionaries", str(scope), "--features", "15"]
prompts = ["--prompt", "a cat", "--prompt", "a dog ran to the park", "--prompt", "They saw a ball"]

def commands(into):
    runs = [
        ["eigen", model, "--layer", "1", "--all-tokens", "-k", "3", "--device", "cpu", "-o", "vectors"],
        ["interactions", model, "--layer", "1", *ends, "--k", "6", *text, "-o", "pairs"],
        ["report", model, *few, *text, "-o", "page.html"],
        ["trace", model, *prompts, "--dictionaries", str(scope), *text,
         "-o", "trace.json", "--page", str(into / "trace.html")],
    ]
    for each in runs:
        assert main([str(into / part) if part == each[each.index("-o") + 1] else part for part in each]) == 0

def refused(work):
    try:
        work()
    except InputError as error:
        return str(error)

with process_group(torch.device("cpu"), patience=timedelta(seconds=100)) as part:
    commands(folder / "two")
    if not part.rank:
        with alone():
            commands(folder / "one")

    assert divided(range(5), lambda some: torch.tensor(some) ** 2, 2).tolist() == [0, 1, 4, 9, 16]
    assert divided([7], lambda some: (torch.tensor(some), ["\\u00e9"] * len(some))) [1] == ["\\u00e9"]
    assert gather_texts(["a", ""] if part.rank else []) == ["a", ""]

    torch.manual_seed(0)
    tensor = BilinearTensor(torch.randn(8, 12), torch.randn(8, 12), torch.randn(12, 8))
    layer = FeatureLayer(tensor, torch.randn(30, 8), torch.randn(7, 8))
    dictionary, loaded = load_dictionary(str(scope / "1-mlp-out")), load_pretrained(model)
    shared = interaction_index(layer, 5, 6), certify_features(loaded, dictionary)
    with alone():
        own = interaction_index(layer, 5, 6), certify_features(loaded, dictionary)
    for ours, theirs in zip(shared, own):
        for name, value in vars(theirs).items():
            assert not isinstance(value, torch.Tensor) or torch.equal(getattr(ours, name), value), name

    def fails():
        with together():
            if part.rank:
                raise InputError("there is no room")
    said = refused(fails)
    expected = "" if part.rank else "process 1 of 2 that share the work: "
    assert said == f"{expected}there is no room"

    # The second process dies at its second part; the first does all of its own, and says so.
    weights = load_file(folder / "weights")
    tensor = BilinearTensor(weights["W_gate"], weights["W_in"], weights["W_out"])
    settings = dict(k=4, method="block", part_size=5)
    run.eigendecompose_to_folder(tensor, weights["u"], folder / "half", resume=True, **settings)
    write, written = run.write_part, []
    def write_or_die(*arguments):
        written.append(arguments)
        if part.rank and len(written) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        write(*arguments)
    run.write_part = write_or_die
    said = refused(lambda: run.eigendecompose_to_folder(tensor, weights["u"], folder / "killed", **settings))
    (folder / "said").write_text(said)
"""


def test_a_process_by_itself():
    with process_group(torch.device("cpu")) as part, together() as same, alone():
        assert part == same
        assert gather_texts(["a"]) == ["a"]
        assert divided(range(3), lambda some: torch.tensor(some), 2).tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="no room"), together():
        raise InputError("no room")


def test_prompts_that_are_none(make_model, tiny_tokenizer):
    for prompts, message in (([], "one text or more"), ("a cat", "expected a list, each a text")):
        with pytest.raises(InputError, match=message):
            trace_prompts(make_model(), tiny_tokenizer, prompts)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_processes_write_what_one_writes(tmp_path, make_model, tiny_tokenizer):
    save_folder(make_model(d_vocab=len(tiny_tokenizer)), tiny_tokenizer, tmp_path / "model")
    torch.manual_seed(0)
    for point in ("mlp-in", "mlp-out"):
        ends = torch.randn(16, 20), torch.randn(20, 16)
        dictionary = Dictionary(*ends, activation="topk", k=4, site=Site(1, point))
        save_dictionary(dictionary, tmp_path / "scope" / f"1-{point}")
    (tmp_path / "text.txt").write_text("a cat and a dog ran to the park. They saw a big red ball. " * 20)
    sizes = {"W_gate": (24, 30), "W_in": (24, 30), "W_out": (30, 6), "u": (23, 6)}
    weights = {name: torch.randn(size, dtype=torch.float64) for name, size in sizes.items()}
    save_file(weights, tmp_path / "weights")
    weights = load_file(tmp_path / "weights")
    layer = weights["u"], BilinearTensor(weights["W_gate"], weights["W_in"], weights["W_out"])

    def finish(name, **options):
        settings = {"k": 4, "method": "block", "part_size": 5}
        eigendecompose_to_folder(layer[1], layer[0], tmp_path / name, **settings, **options)

    finish("whole")
    finish("half")
    for number in (1, 3, 4):
        (tmp_path / "half" / f"part-0000{number}.safetensors").unlink()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    meeting |= {"TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "script.py"), str(tmp_path)],
            env=os.environ | meeting | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, -9], said[0][1] + said[1][1]
    assert said[1][0] == ""
    assert "%" not in said[1][1]

    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert {
        "page.html",
        "trace-0.json",
        "trace-2.json",
        "trace.html",
        "vectors/part-00000.safetensors",
    } < one.keys()
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    assert "#" in json.dumps(json.loads(two["trace-1.json"])["nodes"])

    assert (
        (tmp_path / "said").read_text().startswith("another of the processes that share the work has ended")
    )
    parts = [f"part-0000{number}.safetensors" for number in (0, 1, 2, 4)]
    left = contents(tmp_path / "killed")
    assert {*parts, "settings.json"} <= left.keys()
    assert "part-00003.safetensors" not in left
    with pytest.raises(InputError, match="finish the run by resuming it"):
        load_decomposition(tmp_path / "killed")
    finish("killed", resume=True)
    whole = contents(tmp_path / "whole")
    assert contents(tmp_path / "killed") == whole == contents(tmp_path / "half")
