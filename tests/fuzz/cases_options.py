"""Cases of settings on the command line: numbers, names, paths and what contradicts itself."""

import os
import typing
from pathlib import Path
from random import Random

from calls import CALLS, CPU, READ_MODEL, options, slug
from sandbox import Case

INTEGERS = ("0", "-1", str(2**64))
FLOATS = ("0", "-1", "nan", "inf", "1e-320")
NO_NUMBERS = ("", "many", "½", "0x10", "1_0", " 3", "\udcff", "1e5.5", "1e999", "３", "9" * 5000)
ENDLESS = {("convert", "--steps"), ("generate", "--count")}
ENDLESS |= {("finetune", "--train-tokens"), ("finetune", "--tokens")}
"""A number that is too large is a wish for a run without end here, not a fault."""

NAMES = (
    "",
    "nowhere/at-all",
    "in",
    "in/held-out.txt",
    "\udcff",
    "a\nbilinear-lm: all is well",
    "\x1b[31mred",
)
NAMES += ("<img src=x onerror=alert(1)>", "x" * 5000, "/dev/null", "/dev/full", "/", "~", "owner/name", "--")
OUTPUTS = {
    "missing-parent": "out/a/b/result",
    "existing-file": "in/held-out.txt",
    "existing-folder": "in/filled",
    "below-a-file": "in/held-out.txt/result",
    "pipe": "in/pipe",
    "empty": "",
    "dot": ".",
    "long": "out/" + "x" * 300,
    "newline": "out/a\nbilinear-lm: all is well",
    "markup": "out/<b>\x1b[31m",
    "surrogate": "out/\udcff",
    "quotes": "out/a 'b' \"c\"",
}


def _fill(folder, random):
    os.mkfifo(folder / "in" / "pipe")
    (folder / "in" / "filled").mkdir()
    (folder / "in" / "filled" / "kept.txt").write_text("kept")
    if not (folder / "in" / "held-out.txt").exists():
        (folder / "in" / "held-out.txt").write_text("A cat ran.")


def number_cases(random):
    for command, call in CALLS.items():
        for option, kinds in options(command).items():
            values = INTEGERS if int in kinds else FLOATS if float in kinds else ()
            if not values:
                continue
            for value in (*values, random.choice(NO_NUMBERS)):
                if value == INTEGERS[-1] and (command, option) in ENDLESS:
                    continue
                right = "refusal" if value == "nan" else "any"
                yield Case(
                    f"number/{command}{option}/{slug(value)}",
                    call.where(option, value),
                    call.uses,
                    outputs=call.outputs,
                    right=right,
                )


def name_cases(random):
    """Texts, files and folders that are not there or something else."""
    for command, call in CALLS.items():
        for option, kinds in options(command).items():
            if option == "--output" or not kinds & {str, Path}:
                continue
            values = [value for value in NAMES if option != "--page" or not value.startswith("/")]
            for value in random.sample(values, 4):
                yield Case(
                    f"name/{command}{option}/{slug(value)}",
                    call.where(option, value),
                    (*call.uses, *({"held-out.txt"} - set(call.uses))),
                    outputs=call.outputs | ({value: "page"} if option == "--page" else {}),
                )
    for command in READ_MODEL:
        call = CALLS[command]
        for value in random.sample(NAMES, 3):
            if value == "--":
                continue
            arguments = tuple(value if part == f"in/{call.uses[0]}" else part for part in call.arguments)
            yield Case(f"name/{command}-model/{slug(value)}", arguments, call.uses, outputs=call.outputs)


def output_cases(random):
    for command, call in CALLS.items():
        if command == "info":
            continue
        [(_, kind)] = call.outputs.items()
        for name in random.sample(sorted(OUTPUTS), 6):
            output = OUTPUTS[name]
            yield Case(
                f"output/{command}/{name}",
                call.where("--output", output),
                call.uses,
                _fill,
                outputs={output: kind},
                right="refusal" if output.startswith("in/") and not _file(command, output) else "any",
            )


def _file(command, output):
    """Whether a command that writes a file may replace this one."""
    return command in ("generate", "trace", "policy play") and output == OUTPUTS["existing-file"]


def choice_cases(random):
    for command in CALLS:
        for option, kinds in options(command).items():
            if typing.Literal in kinds:
                call = CALLS[command]
                value = random.choice(("", "evil", "\udcff", "None", "CPU"))
                yield Case(
                    f"choice/{command}{option}/{slug(value)}",
                    call.where(option, value),
                    call.uses,
                    right="refusal",
                )
    for arguments in (
        (),
        ("--help",),
        ("nothing",),
        ("info",),
        ("info", "--device"),
        ("--json",),
        ("\udcff",),
        ("info", "in/model", "more"),
        ("generate", "in/model", "--temperatur", "1"),
        ("eigen", "in/model", "--layer"),
        ("train", "--data"),
        ("train", "-o", "out/result", "--data"),
        ("finetune", "in/swiglu", "-o", "out/result", "--data", *CPU),
        ("policy",),
        ("policy", "--help"),
        ("policy", "nothing"),
        ("policy", "read", "in/model", "-o", "out/result"),
    ):
        yield Case(f"choice/arguments/{slug('-'.join(arguments)) or 'none'}", arguments, ("model", "swiglu"))


def contradictions():
    """Options that cannot go together, or mean nothing with these inputs."""
    calls = {
        "eigen/tokens-and-all": ("eigen", ("--all-tokens",)),
        "eigen/features-alone": ("eigen", ("--features", "1")),
        "eigen/resume-nothing": ("eigen", ("--resume",)),
        "eigen/layer-99": ("eigen", ("--layer", "99")),
        "eigen/k-beyond": ("eigen", ("--k", "17")),
        "eigen/token-unknown": ("eigen", ("--tokens", "zebra crossing")),
        "eigen/token-empty": ("eigen", ("--tokens", "")),
        "eigen/token-minus": ("eigen", ("--tokens", "a - ")),
        "hosvd/k-beyond": ("hosvd", ("--k", "1000")),
        "hosvd/tokens-beyond": ("hosvd", ("--listed", "100000")),
        "trace/no-target": ("trace", ("--prompt", "")),
        "trace/position-far": ("trace", ("--position", "99")),
        "trace/position-alone": ("trace", ("--position", "1"), "--prompt"),
        "trace/head-without-prompt": ("trace", ("--head", "0.0"), "--prompt"),
        "trace/head-far": ("trace", ("--head", "9.9")),
        "trace/head-words": ("trace", ("--head", "first")),
        "trace/key-alone": ("trace", ("--key", "0")),
        "trace/two-targets": ("trace", ("--token", "a", "--feature", "1-mlp-out-3")),
        "trace/feature-far": ("trace", ("--feature", "1-mlp-out-999")),
        "trace/feature-words": ("trace", ("--feature", "the best")),
        "trace/both-followed": ("trace", ("--eigenvectors",)),
        "trace/prompt-long": ("trace", ("--prompt", "A cat ran. " * 200)),
        "trace/page-is-output": ("trace", ("--page", "out/result.json")),
        "interactions/inputs-swapped": ("interactions", ("--inputs", "in/scope/1-mlp-out")),
        "interactions/layer-differs": ("interactions", ("--layer", "0")),
        "interactions/feature-far": ("interactions", ("--features", "999")),
        "diff/k-none": ("diff", ("--k", "0")),
        "diff/null-nowhere": ("diff", ("--null", "nowhere/at-all")),
        "polynomial/degree-17": ("polynomial", ("--degrees", "17")),
        "polynomial/degrees-none": ("polynomial", ("--degrees",)),
        "polynomial/fit-3": ("polynomial", ("--fit-degrees", "3")),
        "polynomial/tokens-few": ("polynomial", ("--tokens", "1")),
        "edit/nothing": ("edit", ("--keep", "2"), "--delete"),
        "edit/layer-99": ("edit", ("--layer", "99")),
        "edit/feature-far": ("edit", ("--delete", "1:2,999")),
        "edit/feature-twice": ("edit", ("--delete", "1:2,2")),
        "edit/interaction-twice": ("edit", ("--delete", "1:2,3", "1:3,2")),
        "edit/words": ("edit", ("--delete", "the best")),
        "edit/amount-NaN": ("edit", ("--insert", "1:2,3=nan")),
        "edit/keep-its-own": ("edit", ("--keep", "2")),
        "edit/keep-all": ("edit", ("--keep", *map(str, range(4, 20)))),
        "edit/sides-swapped": ("edit", ("--inputs", "in/scope/1-mlp-out")),
        "report/layer-far": ("report", ("--layers", "99")),
        "report/layer-twice": ("report", ("--layers", "1", "1")),
        "report/text-empty": ("report", ("--text", "")),
        "report/text-long": ("report", ("--text", "A cat ran. " * 500)),
        "report/prompt-long": ("report", ("--prompt", "A cat ran. " * 200)),
        "report/dictionaries-alone": ("report", ("--dictionaries", "in/scope"), "--contexts"),
        "generate/prompt-long": ("generate", ("--prompt", "A cat ran. " * 200)),
        "generate/tokens-beyond": ("generate", ("--max-tokens", "10000")),
        "export/scale": ("export", ("--attention-scale", "True")),
        "train/passes-many": ("train", ("--passes", "1", "2", "3")),
        "train/preset-unknown": ("train", ("--preset", "evil")),
        "train/context-too-long": ("train", ("--preset", "ts-medium", "--max-tokens", "10")),
        "train/resume-nothing": ("train", ("--resume",)),
        "train/rate-huge": ("train", ("--learning-rate", "1e4")),
        "train/tokenizer-without-bos": ("train", ("--tokenizer", "in/model")),
        "dictionaries/k-beyond": ("dictionaries", ("--k", "100")),
        "dictionaries/window-beyond": ("dictionaries", ("--window", "64")),
        "dictionaries/window-one": ("dictionaries", ("--window", "1")),
        "dictionaries/layer-twice": ("dictionaries", ("--layers", "1", "1")),
        "dictionaries/points-none": ("dictionaries", ("--points",)),
        "dictionaries/rate-huge": ("dictionaries", ("--learning-rate", "1e30")),
        "convert/bilinear-already": ("convert", ()),
        "convert/no-text": ("convert", ("--calibration",)),
        "convert/biases": ("convert", ("--biases", "True")),
        "convert/context-beyond": ("convert", ("--context", "4096")),
        "finetune/learnable-without-anneal": ("finetune", ("--learnable-gates", "--start", "fit")),
        "finetune/baseline-learnable": ("finetune", ("--arm", "baseline", "--learnable-gates")),
        "finetune/baseline-norms": ("finetune", ("--arm", "baseline", "--norms", "linear")),
        "finetune/rank-beyond": ("finetune", ("--lora-rank", "1000")),
        "finetune/batch-beyond": ("finetune", ("--batch-size", "100000")),
        "finetune/validation-steps-alone": ("finetune", ("--validation-steps", "2")),
        "finetune/report-to-unknown": ("finetune", ("--report-to", "evil")),
        "finetune/rate-huge": ("finetune", ("--learning-rate", "1e6", "--log-steps", "1")),
        "finetune/distillation-two": ("finetune", ("--distillation", "2")),
        "finetune/warmup-two": ("finetune", ("--warmup", "2")),
        "finetune/context-one": ("finetune", ("--context", "1")),
        "finetune/accumulation-beyond": ("finetune", ("--accumulation", "100")),
        "finetune/plan-and-resume": ("finetune", ("--plan", "--resume")),
    }
    for name, (command, given, *drop) in calls.items():
        call = CALLS[command]
        if name == "convert/bilinear-already":
            call = call.on("model")
        arguments = call.where(*given, drop=tuple(drop)) if given else call.arguments
        uses = (*call.uses, *({"model"} - set(call.uses))) if "in/model" in given else call.uses
        outputs = {} if "--plan" in given else call.outputs
        yield Case(f"contradiction/{name}", arguments, uses, outputs=outputs)


def cases(seed):
    random = Random(f"{seed} options")
    for make in (number_cases, name_cases, output_cases, choice_cases):
        yield from make(random)
    yield from contradictions()
