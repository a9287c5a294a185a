"""Every command with arguments that are quick and valid, and what its options take."""

import dataclasses
import types
import typing
from dataclasses import dataclass
from pathlib import Path

from sandbox import Case

from bilinear_lm.cli import commands

CPU = ("--device", "cpu")


@dataclass(frozen=True)
class Call:
    """A command line that works: arguments, inputs, and what it writes."""

    arguments: tuple[str, ...]
    uses: tuple[str, ...]
    outputs: dict[str, str]

    def where(self, *options: str, drop: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The arguments with an option set to other values, and without some options."""
        return (*_without(self.arguments, {options[0], *drop} if options else set(drop)), *options)

    def on(self, model: str) -> "Call":
        """The same on another input in the place of the model."""
        old = self.uses[0]
        arguments = tuple(f"in/{model}" if part == f"in/{old}" else part for part in self.arguments)
        return Call(arguments, (model.split("/")[0], *self.uses[1:]), self.outputs)


def _without(arguments, options):
    kept, dropping = [], False
    for part in arguments:
        if part.startswith("--"):
            dropping = part in options
        if not dropping:
            kept.append(part)
    return kept


CALLS = {
    "info": Call(("info", "in/model", "--json"), ("model",), {}),
    "export": Call(("export", "in/model", "--output", "out/result"), ("model",), {"out/result": "model"}),
    "generate": Call(
        (
            "generate",
            "in/model",
            "--prompt",
            "A cat",
            "--max-tokens",
            "5",
            "--output",
            "out/result.txt",
            *CPU,
        ),
        ("model",),
        {"out/result.txt": "text"},
    ),
    "eigen": Call(
        ("eigen", "in/model", "--layer", "1", "--tokens", "a", "--k", "3", "--output", "out/result", *CPU),
        ("model",),
        {"out/result": "eigen"},
    ),
    "hosvd": Call(
        ("hosvd", "in/model", "--layer", "1", "--k", "3", "--output", "out/result", *CPU),
        ("model",),
        {"out/result": "files"},
    ),
    "interactions": Call(
        (
            *("interactions", "in/model", "--layer", "1", "--k", "3", "--inputs", "in/scope/1-mlp-in"),
            *("--outputs", "in/scope/1-mlp-out", "--output", "out/result", "--features", "1", *CPU),
        ),
        ("model", "scope"),
        {"out/result": "files"},
    ),
    "trace": Call(
        (
            *("trace", "in/model", "--prompt", "A cat", "--dictionaries", "in/scope"),
            *("--max-nodes", "20", "--output", "out/result.json", *CPU),
        ),
        ("model", "scope"),
        {"out/result.json": "graph"},
    ),
    "diff": Call(
        (
            *("diff", "in/model", "in/model", "--k", "2", "--output", "out/result"),
            *("--dictionaries", "in/scope", *CPU),
        ),
        ("model", "scope"),
        {"out/result": "files"},
    ),
    "polynomial": Call(
        (
            *("polynomial", "in/model", "--contexts", "in/held-out.txt", "--degrees", "1", "2"),
            *("--fit-degrees", "1", "--tokens", "300", "--output", "out/result", *CPU),
        ),
        ("model", "held-out.txt"),
        {"out/result": "files"},
    ),
    "edit": Call(
        (
            *("edit", "in/model", "--layer", "1", "--inputs", "in/scope/1-mlp-in", "--outputs"),
            *("in/scope/1-mlp-out", "--delete", "1:2,3", "--output", "out/result", *CPU),
        ),
        ("model", "scope"),
        {"out/result": "model"},
    ),
    "report": Call(
        (
            *("report", "in/model", "--directions", "1", "--eigenvectors", "1", "--text", "A cat ran."),
            *("--dictionaries", "in/scope", "--contexts", "in/held-out.txt", "--features", "3"),
            *("--output", "out/result.html", *CPU),
        ),
        ("model", "scope", "held-out.txt"),
        {"out/result.html": "page"},
    ),
    "train": Call(
        (
            *("train", "--data", "in/train.txt", "--preset", "stories-1l", "--batch-size", "4"),
            *("--passes", "0.6", "--precision", "float32", "--checkpoint-steps", "1"),
            *("--output", "out/result", *CPU),
        ),
        ("train.txt",),
        {"out/result": "model"},
    ),
    "dictionaries": Call(
        (
            *("dictionaries", "in/model", "--data", "in/train.txt", "--layers", "1", "--points", "mlp-out"),
            *("--features", "24", "--k", "4", "--max-tokens", "1200", "--validation-tokens", "300"),
            *("--output", "out/result", *CPU),
        ),
        ("model", "train.txt"),
        {"out/result": "dictionaries"},
    ),
    "images": Call(
        (
            *("images", "in/images", "--epochs", "3", "--d-model", "8", "--d-mlp", "8", "--certified", "5"),
            *("--eigenvectors", "2", "--output", "out/result", *CPU),
        ),
        ("images",),
        {"out/result": "files"},
    ),
    "policy train": Call(
        (
            *("policy", "train", "--steps", "200", "--mazes", "4", "--rollout", "25", "--batch-size", "50"),
            *("--output", "out/result", *CPU),
        ),
        (),
        {"out/result": "files"},
    ),
    "policy read": Call(
        (
            *("policy", "read", "in/policy", "--levels", "8", "--states", "200", "--controls", "1"),
            *("--output", "out/result", *CPU),
        ),
        ("policy",),
        {"out/result": "files"},
    ),
    "policy play": Call(
        ("policy", "play", "in/policy", "--output", "out/result.txt", *CPU),
        ("policy",),
        {"out/result.txt": "text"},
    ),
    "convert": Call(
        (
            *("convert", "in/swiglu", "--calibration", "in/train.txt", "--calibration-tokens", "1500"),
            *("--context", "32", "--steps", "10", "--batch-size", "64", "--output", "out/result", *CPU),
        ),
        ("swiglu", "train.txt"),
        {"out/result": "model"},
    ),
    "finetune": Call(
        (
            *(
                "finetune",
                "in/swiglu",
                "--data",
                "in/train.txt",
                "--train-tokens",
                "1500",
                "--start",
                "anneal",
            ),
            *("--precision", "float32", "--distillation", "0", "--batch-size", "4", "--checkpoint-steps"),
            *("5", "--calibration-tokens", "1000", "--output", "out/result", *CPU),
        ),
        ("swiglu", "train.txt"),
        {"out/result": "model"},
    ),
}

COMMANDS = commands()
READ_MODEL = [name for name in CALLS if name not in ("train", "images") and not name.startswith("policy")]
READ_TEXT = {
    "train": ("--data", "--validation"),
    "dictionaries": ("--data", "--validation"),
    "convert": ("--calibration",),
    "finetune": ("--data", "--validation"),
    "report": ("--contexts", "--validation"),
    "trace": ("--contexts",),
    "interactions": ("--contexts",),
    "polynomial": ("--contexts",),
}
"""The options that name a text."""


def options(name: str) -> dict[str, set]:
    """The options of a command → the kinds of value that each takes, told by its annotations."""
    hints = typing.get_type_hints(COMMANDS[name], include_extras=True)
    settings = typing.get_args(hints["config"])[0] if "config" in hints else None
    hints = typing.get_type_hints(settings) if settings else typing.get_type_hints(COMMANDS[name])
    positional = {"checkpoint", "model", "other", "policy", "return"}
    positional |= {"data"} if name == "images" else set()
    return {
        "--" + {"as_json": "json"}.get(option, option).replace("_", "-"): set(_leaves(hint))
        for option, hint in hints.items()
        if option not in positional and (settings is None or option in _fields(settings))
    }


def _fields(settings):
    return {field.name for field in dataclasses.fields(settings)}


def _leaves(hint):
    if typing.get_origin(hint) in (typing.Union, types.UnionType, tuple, typing.Annotated):
        for part in typing.get_args(hint):
            yield from _leaves(part)
    elif typing.get_origin(hint) is typing.Literal:
        yield typing.Literal
    elif hint in (int, float, str, Path, bool):
        yield hint


LOADERS = {"model": "loaders:model", "info": "loaders:info", "tokenizer": "loaders:tokenizer"}


def at(path, mutate):
    """A spoiling of one path in the folder of inputs."""
    return lambda folder, random: mutate(folder / "in" / path, random)


def on_model(name, model, spoil, random, *, loader="model", **options):
    """A loader of a spoiled model and a command that reads it, drawn at random."""
    path = f"in/{model}"
    options = {"uses": (model.split("/")[0],), "spoil": spoil} | options
    yield Case(f"{name}/{loader}", (path,), function=LOADERS[loader], **options)
    commands = [
        command for command in READ_MODEL if (command in ("convert", "finetune")) == (model == "swiglu")
    ]
    if model in ("published", "llama2c/tiny.bin"):
        commands = ["info", "export"]
    command = random.choice(commands)
    call = CALLS[command].on(model)
    yield Case(f"{name}/command", call.arguments, **options | {"uses": call.uses, "outputs": call.outputs})


def slug(text: str) -> str:
    """A value as part of a case's name."""
    kept = "".join(character if character.isalnum() and character.isascii() else "_" for character in text)
    return kept[:24] + ("+" if len(kept) > 24 else "") or "empty"
