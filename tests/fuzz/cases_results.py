"""Cases of what our own commands and others wrote: dictionaries, decompositions, graphs, interrupted runs."""

import shutil
from random import Random

from calls import CALLS, at
from mutate_bytes import BYTES, FILES
from mutate_json import DOCUMENTS, RAW_VALUES, drawn_json, put
from mutate_safetensors import SAFETENSORS
from sandbox import Case

DICTIONARIES = {
    "saelens": ("sae_weights.safetensors", "cfg.json"),
    "sparsify": ("sae.safetensors", "cfg.json"),
    "published-scope": ("model.safetensors", "config.json"),
    "circuit-tracer": ("layer_1.safetensors", None),
}
_REFUSED = {
    "value-NaN",
    "value-infinite",
    "dtype-float64-1e300",
    "dtype-complex",
    "tensor-missing",
    "no-tensors",
}


def _load(name, folder, spoil, right="any"):
    path = f"in/{folder}/layer_1.safetensors" if folder == "circuit-tracer" else f"in/{folder}"
    return Case(name, (path,), (folder,), spoil, "loaders:dictionary", right=right)


def _eigen(name, folder, spoil, right="any"):
    """The command that reads one dictionary."""
    path = f"in/{folder}/layer_1.safetensors" if folder == "circuit-tracer" else f"in/{folder}"
    call = CALLS["eigen"]
    arguments = call.where("--dictionary", path, "--features", "1", drop=("--tokens",))
    return Case(name, arguments, (*call.uses, folder), spoil, outputs=call.outputs, right=right)


def dictionary_cases(random):
    for folder, (weights, config) in DICTIONARIES.items():
        for name in random.sample(sorted(BYTES | FILES), 9):
            mutate = (BYTES | FILES)[name]
            yield _load(f"dictionary/{folder}-bytes/{name}", folder, at(f"{folder}/{weights}", mutate))
        for name, mutate in SAFETENSORS.items():
            if name in _REFUSED or random.random() < 0.5:
                make = random.choice((_load, _load, _eigen))
                right = "refusal" if name in _REFUSED else "any"
                yield make(
                    f"dictionary/{folder}-weights/{name}", folder, at(f"{folder}/{weights}", mutate), right
                )
        if config is None:
            continue
        for name in random.sample(sorted(DOCUMENTS), 7):
            spoil = at(f"{folder}/{config}", DOCUMENTS[name])
            yield _load(f"dictionary/{folder}-config/{name}", folder, spoil)
        for number in range(14):
            what, mutate = drawn_json(random, number)
            yield _load(f"dictionary/{folder}-config/{what}", folder, at(f"{folder}/{config}", mutate))
    for value in ("zero", "minus-one", "billion", "null", "true"):
        for folder in ("sparsify", "published-scope"):
            config = DICTIONARIES[folder][1]
            spoil = at(f"{folder}/{config}", put(("k",), RAW_VALUES[value]))
            yield _load(f"dictionary/{folder}-k/{value}", folder, spoil, "refusal")


def scope_cases(random):
    """A folder of dictionaries in which one is not what it should be."""
    spoilings = {
        "truncated": at("scope/1-mlp-out/sae.safetensors", BYTES["truncated"]),
        "not-json": at("scope/1-mlp-out/cfg.json", DOCUMENTS["not-json"]),
        "deep": at("scope/1-mlp-out/cfg.json", DOCUMENTS["deep"]),
        "layer-renamed": lambda folder, random: (folder / "in/scope/1-mlp-out").rename(
            folder / "in/scope/7-mlp-out"
        ),
        "words": lambda folder, random: (folder / "in/scope/notes").mkdir(),
        "empty": lambda folder, random: shutil.rmtree(folder / "in/scope/1-mlp-out"),
        "all-gone": lambda folder, random: [shutil.rmtree(part) for part in (folder / "in/scope").iterdir()],
        "file": lambda folder, random: (folder / "in/scope/notes.txt").write_text("notes"),
    }
    for name, spoil in spoilings.items():
        for command in ("trace", "report", "interactions"):
            call = CALLS[command]
            yield Case(f"scope/{name}/{command}", call.arguments, call.uses, spoil, outputs=call.outputs)


def _decomposition(name, file, mutate, right="any"):
    return Case(
        name, ("in/eigen",), ("eigen",), at(f"eigen/{file}", mutate), "loaders:decomposition", right=right
    )


def decomposition_cases(random):
    part = "part-00000.safetensors"
    for name, mutate in (BYTES | SAFETENSORS).items():
        right = "refusal" if name in _REFUSED else "any"
        yield _decomposition(f"decomposition/part/{name}", part, mutate, right)
    for name, mutate in DOCUMENTS.items():
        yield _decomposition(f"decomposition/settings/{name}", "settings.json", mutate)
    settings = [("axes",), ("axes", 0), ("part_size",), ("k",)]
    for keys in settings:
        for value in random.sample(sorted(RAW_VALUES), 5):
            what = f"{'.'.join(map(str, keys))}-{value}"
            yield _decomposition(
                f"decomposition/settings/{what}", "settings.json", put(keys, RAW_VALUES[value])
            )
    call = CALLS["eigen"]
    for name, spoil in {
        "settings-deep": at("eigen/settings.json", DOCUMENTS["deep"]),
        "settings-list": at("eigen/settings.json", DOCUMENTS["list"]),
        "k-differs": at("eigen/settings.json", put(("k",), "4")),
        "part-truncated": at(f"eigen/{part}", BYTES["truncated"]),
        "part-of-another-k": at(f"eigen/{part}", SAFETENSORS["tensor-half"]),
        "part-NaN": at(f"eigen/{part}", SAFETENSORS["value-NaN"]),
        "part-a-folder": at(f"eigen/{part}", FILES["folder"]),
        "part-empty": at(f"eigen/{part}", BYTES["empty"]),
    }.items():
        arguments = call.where("--output", "in/eigen", "--tokens", "a", "b", "--resume", drop=("--tokens",))
        yield Case(
            f"decomposition/resume/{name}",
            arguments,
            (*call.uses, "eigen"),
            spoil,
            outputs={"in/eigen": "eigen"},
            right="refusal",
        )


def graph_cases(random):
    for name, mutate in (BYTES | DOCUMENTS | FILES).items():
        yield Case(
            f"graph/file/{name}",
            ("in/graph.json",),
            ("graph.json",),
            at("graph.json", mutate),
            "loaders:graph",
        )
    for number in range(20):
        what, mutate = drawn_json(random, number)
        yield Case(
            f"graph/value/{what}",
            ("in/graph.json",),
            ("graph.json",),
            at("graph.json", mutate),
            "loaders:graph",
        )


def _resumed(command, spoil):
    """Puts the interrupted run where the command looks for it, spoiled."""

    def lay_out(folder, random):
        run = folder / "out" / "result.run"
        shutil.move(folder / "in" / f"{command}-result.run", run)
        spoil(run, random)

    return lay_out


def _newest(run):
    return max(run.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def _in_newest(file, mutate):
    def spoil(run, random):
        if (_newest(run) / file).exists():
            mutate(_newest(run) / file, random)

    return spoil


RUNS = {
    "untouched": lambda run, random: None,
    "newest-gone": lambda run, random: shutil.rmtree(_newest(run)),
    "all-gone": lambda run, random: [shutil.rmtree(part) for part in run.glob("checkpoint-*")],
    "settings-gone": lambda run, random: (run / "settings.json").unlink(),
    "settings-deep": lambda run, random: DOCUMENTS["deep"](run / "settings.json", random),
    "settings-list": lambda run, random: DOCUMENTS["list"](run / "settings.json", random),
    "settings-truncated": lambda run, random: BYTES["truncated"](run / "settings.json", random),
    "seed-differs": lambda run, random: put(("seed",), "5")(run / "settings.json", random),
    "checkpoint-word": lambda run, random: (run / "checkpoint-last").mkdir(),
    "checkpoint-empty": lambda run, random: (run / "checkpoint-99").mkdir(),
    "a-file": lambda run, random: (shutil.rmtree(run), run.write_text("no folder")),
    "empty": lambda run, random: (shutil.rmtree(run), run.mkdir()),
    "state-deep": _in_newest("trainer_state.json", DOCUMENTS["deep"]),
    "state-list": _in_newest("trainer_state.json", DOCUMENTS["list"]),
    "state-not-utf-8": _in_newest("trainer_state.json", DOCUMENTS["not-utf-8"]),
    "state-step-text": _in_newest("trainer_state.json", put(("global_step",), '"many"')),
    "state-step-huge": _in_newest("trainer_state.json", put(("global_step",), str(10**9))),
    "weights-truncated": _in_newest("model.safetensors", BYTES["truncated"]),
    "weights-NaN": _in_newest("model.safetensors", SAFETENSORS["value-NaN"]),
    "weights-renamed": _in_newest("model.safetensors", SAFETENSORS["tensor-renamed"]),
    "weights-gone": _in_newest("model.safetensors", FILES["gone"]),
    "optimizer-truncated": _in_newest("optimizer.pt", BYTES["truncated"]),
    "optimizer-empty": _in_newest("optimizer.pt", BYTES["empty"]),
    "optimizer-random": _in_newest("optimizer.pt", BYTES["random"]),
    "optimizer-pickle": _in_newest("optimizer.pt", BYTES["pickle"]),
    "optimizer-gone": _in_newest("optimizer.pt", FILES["gone"]),
    "scheduler-truncated": _in_newest("scheduler.pt", BYTES["truncated"]),
    "rng-truncated": _in_newest("rng_state.pth", BYTES["truncated"]),
    "rng-gone": _in_newest("rng_state.pth", FILES["gone"]),
}
PARTS = {
    "train": {
        "tokenizer-truncated": lambda run, random: BYTES["truncated"](
            run / "tokenizer" / "tokenizer.json", random
        ),
        "tokenizer-gone": lambda run, random: shutil.rmtree(run / "tokenizer"),
    },
    "finetune": {
        "start-truncated": lambda run, random: BYTES["truncated"](
            run / "start" / "model.safetensors", random
        ),
        "start-config-deep": lambda run, random: DOCUMENTS["deep"](run / "start" / "config.json", random),
        "start-record-list": lambda run, random: DOCUMENTS["list"](run / "start" / "start.json", random),
        "start-gone": lambda run, random: shutil.rmtree(run / "start"),
        "tokens-truncated": lambda run, random: BYTES["truncated"](run / "tokens" / "0.bin", random),
        "tokens-random": lambda run, random: BYTES["random"](run / "tokens" / "0.bin", random),
        "tokens-empty": lambda run, random: BYTES["empty"](run / "tokens" / "0.bin", random),
        "tokens-gone": lambda run, random: shutil.rmtree(run / "tokens"),
        "log-not-json": lambda run, random: DOCUMENTS["not-json"](run / "log.jsonl", random),
        "log-truncated": lambda run, random: BYTES["truncated"](run / "log.jsonl", random),
        "log-gone": lambda run, random: (run / "log.jsonl").unlink(),
    },
}
_GOES_ON = {
    "untouched",
    "newest-gone",
    "all-gone",
    "checkpoint-empty",
    "weights-truncated",
    "optimizer-truncated",
}
_GOES_ON |= {"optimizer-empty", "optimizer-random", "state-list", "scheduler-truncated", "weights-gone"}
"""Where an older checkpoint, or the start, is good, the run goes on from there."""


def resume_cases(random):
    for command in ("train", "finetune"):
        call = CALLS[command]
        uses = (*call.uses, f"{command}-result.run")
        for name, spoil in (RUNS | PARTS[command]).items():
            yield Case(
                f"resume/{command}/{name}",
                (*call.arguments, "--resume"),
                uses,
                _resumed(command, spoil),
                outputs=call.outputs,
                consumes="out/result.run",
                right="success" if name in _GOES_ON else "any",
            )
        yield Case(
            f"resume/{command}/without-resume",
            call.arguments,
            uses,
            _resumed(command, lambda run, random: None),
            outputs=call.outputs,
            right="refusal",
            says="--resume",
        )


def cases(seed):
    random = Random(f"{seed} results")
    yield from dictionary_cases(random)
    yield from scope_cases(random)
    yield from decomposition_cases(random)
    yield from graph_cases(random)
    yield from resume_cases(random)
