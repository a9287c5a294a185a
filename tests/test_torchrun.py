"""Commands and analyses in two processes that torchrun starts: the same bytes as from one, and a kill."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch
from safetensors.torch import load_file, save_file

from analysis import eigendecompose_to_folder, load_decomposition, trace_prompts
from analysis.graphs.files import load_graph
from bilinear_lm import BilinearTensor, Dictionary, InputError, Site, save_dictionary
from bilinear_lm.checkpoints import save_folder
from bilinear_lm.distributed import alone, divided, gather_texts, process_group, together

SCRIPT = """
import os, pathlib, shutil, signal, sys, traceback
from datetime import timedelta

import matplotlib.pyplot, torch, transformers.models.llama
from safetensors.torch import load_file

import analysis.report.write, analysis.circuits, analysis.vision.figures
import analysis.spectra.eigen_run as eigen_run
import finetune.dictionaries.train as dictionaries
from analysis import certify_features, interaction_index, strongest_interactions
from analysis.features import FeatureLayer, explained_on_text, split_strongest_interactions
from bilinear_lm import BilinearTensor, InputError, Site, load_dictionary, load_pretrained
from bilinear_lm.cli import main
from bilinear_lm.distributed import alone, divided, gather_rows, gather_texts, process_group, together
from finetune.dictionaries.config import DictionaryConfig

torch.set_num_threads(1)
CPU = torch.device("cpu")
folder = pathlib.Path(sys.argv[1])
model, scope = str(folder / "model"), folder / "scope"
ends = ["--inputs", str(scope / "1-mlp-in"), "--outputs", str(scope / "1-mlp-out")]
text = ["--contexts", str(folder / "text.txt"), "--device", "cpu"]
few = ["--directions", "1", "--text", "a cat", "--dictionaries", str(scope), "--features", "15"]
prompts = ["--prompt", "a cat", "--prompt", "a dog ran to the park", "--prompt", "They saw a ball"]

def commands(into, rank=0):
    runs = [
        ["eigen", model, "--layer", "1", "--all-tokens", "-k", "3", "--device", "cpu", "-o", "vectors"],
        ["interactions", model, "--layer", "1", *ends, "--k", "6", *text, "-o", "pairs"],
        ["report", model, *few, *text, "-o", "page.html"],
        ["trace", model, *prompts, "--dictionaries", str(scope), *text,
         "-o", "trace.json", "--page", str(into / "trace.html")],
    ]
    for each in runs:
        assert main([str(into / part) if part == each[each.index("-o") + 1] else part for part in each]) == 0
    measure(into.name, rank)

def traces(way):
    # Of the model that ships, on weights and on a prompt.
    for name, target in (("feature", "3-mlp-out-540"), ("prompt", "Once upon a time")):
        given = ["trace", "--" + name, target, *text, "--max-nodes", "60"]
        assert main([*given, "-o", str(folder / f"{name}.{way}.json")]) == 0

def measure(name, rank=0):
    # The measuring of dictionaries that are trained.
    output = folder / name / "dictionaries"
    config = DictionaryConfig(model=model, output=output, data=("text.txt",), layers=(1,), device="cpu")
    trained, batches = None, torch.arange(7 * 12).view(7, 12).remainder(50).split(2)
    if not rank:
        run = output.with_name("dictionaries.run")
        if not run.exists():
            shutil.copytree(scope, run / "trained")
        sites = [Site(1, "mlp-in"), Site(1, "mlp-out")]
        trained = dictionaries._Trained(sites, load_pretrained(model), batches, 7, run)
    dictionaries._measure_together(config, CPU, trained)

def refused(work):
    try:
        work()
    except InputError as error:
        return str(error)

def same(one, other):
    for name, value in vars(one).items():
        assert not isinstance(value, torch.Tensor) or torch.equal(getattr(other, name), value), name

def shared(part):
    commands(folder / "two", part.rank)
    traces("two")
    assert divided(range(5), lambda some: torch.tensor(some) ** 2, 2).tolist() == [0, 1, 4, 9, 16]
    assert divided([7], lambda some: (torch.tensor(some), ["\\u00e9"] * len(some)))[1] == ["\\u00e9"]
    assert gather_texts(["a", ""] if part.rank else []) == ["a", ""]
    assert gather_rows(torch.full((part.rank * 3, 2), 1.0)).tolist() == [[1.0, 1.0]] * 3

    torch.manual_seed(0)
    tensor = BilinearTensor(torch.randn(8, 12), torch.randn(8, 12), torch.randn(12, 8))
    layer = FeatureLayer(tensor, torch.randn(150, 8), torch.randn(7, 8))
    dictionary, loaded = load_dictionary(str(scope / "1-mlp-out")), load_pretrained(model)
    def results():
        yield interaction_index(layer, 5, 6)
        yield certify_features(loaded, dictionary)
    ours = [*results()]
    with alone():
        for each, other in zip(results(), ours):
            same(each, other)
    for outputs, k in ((None, 40), ([2], 7), ([5, 1, 1, 3], 11)):
        same(strongest_interactions(layer, outputs, k), split_strongest_interactions(layer, outputs, k))

    def fails():
        with together():
            if part.rank:
                raise InputError("there is no room")
    said = refused(fails)
    expected = "" if part.rank else "process 1 of 2 that share the work: "
    assert said == f"{expected}there is no room"
    said = refused(lambda: dictionaries.train_dictionaries(DictionaryConfig("m", folder / "d", ("t",))))
    assert "in a torch.distributed group" in said

    tensor, u = layer_on_disk()
    eigen_run.eigendecompose_to_folder(tensor, u, folder / "half", resume=True, **settings)

settings = dict(k=4, method="block", part_size=5)

def layer_on_disk():
    weights = load_file(folder / "weights")
    return BilinearTensor(weights["W_gate"], weights["W_in"], weights["W_out"]), weights["u"]

def die_at_second(module, name):
    whole, calls = getattr(module, name), []
    def once(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        whole(*arguments)
    setattr(module, name, once)

def eigen_killed(part):
    # The second process dies at its second part; the first does all of its own, and says so.
    if part.rank:
        die_at_second(eigen_run, "write_part")
    work = lambda: eigen_run.eigendecompose_to_folder(*layer_on_disk(), folder / "killed", **settings)
    said = refused(work)
    assert said.startswith("another of the processes that share the work has ended"), said

def measure_killed(part):
    if not part.rank:
        die_at_second(dictionaries, "write_json")
    said = refused(lambda: measure("killed-measuring", part.rank))
    assert said.startswith("another of the processes that share the work has ended"), said

def forked(work, rank):
    # Takes less time than to import all of this once more.
    pid = os.fork()
    if pid:
        return pid
    said = os.open(folder / f"{work.__name__}.{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1), os.dup2(said, 2)
    try:
        work()
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)

def launched(work, rank, meeting):
    # A process as torchrun starts it.
    def run():
        os.environ |= meeting
        with process_group(CPU, patience=timedelta(seconds=100)) as part:
            work(part)
    run.__name__ = work.__name__
    return forked(run, rank)

def single(work):
    # A process that torchrun did not start.
    def run():
        del os.environ["TORCHELASTIC_RUN_ID"]
        work()
    run.__name__ = work.__name__
    return forked(run, 0)

def by_one():
    commands(folder / "one")
    traces("one")

def measured():
    measure("killed-measuring")

def ended(name, running):
    ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in running]
    (folder / f"{name}.{rank}.ends").write_text(str(ends))

rank = int(os.environ["RANK"])
# Addresses of the first group stay in torchrun's store: the others meet in stores of their own.
meetings = [{"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": port} for port in sys.argv[2:]]
for work, meeting in zip((shared, eigen_killed, measure_killed), [{}, *meetings]):
    running = [launched(work, rank, meeting)]
    if rank == 0 and work is shared:
        running.append(single(by_one))
    ended(work.__name__, running)
if rank == 0:
    ended("measured", [single(measured)])
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


def free_ports(n):
    with ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in free:
            each.bind(("127.0.0.1", 0))
        return [str(each.getsockname()[1]) for each in free]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def require_same_graphs(one, two):
    assert [node.id for node in two.nodes] == [node.id for node in one.nodes]
    assert [(edge.source, edge.target) for edge in two.edges] == [(e.source, e.target) for e in one.edges]
    # Where tensors lie in memory decides the last bits of their products.
    assert [e.weight for e in two.edges] == pytest.approx([e.weight for e in one.edges], rel=1e-5)
    sums = [[pruned.signed for pruned in graph.pruned.values()] for graph in (one, two)]
    assert sums[1] == pytest.approx(sums[0], rel=1e-4, abs=1e-4)
    assert [p.count for p in two.pruned.values()] == [p.count for p in one.pruned.values()]


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
    for name in ("one", "two", "killed-measuring"):
        (tmp_path / name).mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    run += ["--nproc-per-node", "2", str(tmp_path / "script.py"), str(tmp_path), *free_ports(2)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300)
    said = "".join([done.stderr, *(file.read_text() for file in tmp_path.glob("*.txt"))])
    assert done.returncode == 0, said
    ends = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.ends")}
    assert ends == {
        **{"shared.0": [0, 0], "shared.1": [0], "measured.0": [0]},
        **{"eigen_killed.0": [0], "eigen_killed.1": [-9]},
        **{"measure_killed.0": [-9], "measure_killed.1": [0]},
    }, said
    assert (tmp_path / "shared.1.txt").read_text() == ""
    printed = (tmp_path / "shared.0.txt").read_text().splitlines()
    for name in ("feature", "prompt"):
        paths = {way: tmp_path / f"{name}.{way}.json" for way in ("one", "two")}
        assert printed.count(str(paths["two"])) == 1
        require_same_graphs(*(load_graph(path) for path in paths.values()))

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

    parts = [f"part-0000{number}.safetensors" for number in (0, 1, 2, 4)]
    left = contents(tmp_path / "killed")
    assert {*parts, "settings.json"} <= left.keys()
    assert "part-00003.safetensors" not in left
    with pytest.raises(InputError, match="finish the run by resuming it"):
        load_decomposition(tmp_path / "killed")
    finish("killed", resume=True)
    whole = contents(tmp_path / "whole")
    assert contents(tmp_path / "killed") == whole == contents(tmp_path / "half")
    measured = {name: one[name] for name in one if name.startswith("dictionaries.run")}
    assert {f"dictionaries.run/trained/1-mlp-{end}/train.json" for end in ("in", "out")} < measured.keys()
    assert contents(tmp_path / "killed-measuring") == measured
