"""Settings that mean nothing are refused, each in one line that names it, before any work."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from bilinear_lm import InputError
from bilinear_lm.checks import require_seed
from bilinear_lm.cli import main
from finetune import ConvertConfig, DictionaryConfig, FinetuneConfig, FitSettings, PretrainConfig
from finetune.bounds import Bounds, require_bounds, require_kinds

NUMBERS = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize(
    ("bounds", "within", "without", "said"),
    [
        (Bounds(1, 10), (1, 10), (0, 11, *NUMBERS), "at least 1 and at most 10"),
        (Bounds(0, 1, above=True), (1e-300, 1.0), (0, -1.0, 1.1), "above 0 and at most 1"),
        (Bounds(0, 1, below=True), (0.0, 0.999), (1, -0.1), "at least 0 and below 1"),
        (Bounds(), (-1e300, 1e300), NUMBERS, "a finite number"),
    ],
)
def test_bounds(bounds, within, without, said):
    assert all(bounds.admit(value) for value in within)
    assert not any(bounds.admit(value) for value in without)
    assert str(bounds) == said


@dataclass
class Settings:
    count: int = 1
    share: float | None = 0.5
    shares: tuple[float, ...] = (0.5, 1)
    name: Literal["a", "b"] = "a"
    other: Literal["a", "b"] | Literal["c"] | None = "c"
    path: Path | None = None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("count", 2.0, "a whole number"),
        ("count", True, "a whole number"),
        ("share", math.nan, "a finite number or None"),
        ("share", "1", "a finite number or None"),
        ("shares", 0.5, "a tuple"),
        ("shares", (0.5, math.inf), "a finite number"),
        ("name", "evil", "one of a, b"),
        ("other", "d", "one of a, b or one of c or None"),
    ],
)
def test_kinds(name, value, said):
    require_kinds(Settings())
    require_kinds(Settings(share=None, other=None))
    with pytest.raises(InputError) as told:
        require_kinds(dataclasses.replace(Settings(), **{name: value}))
    assert str(told.value) == f"{name} {value}; expected {said}"


def test_what_is_listed():
    settings = Settings(count=0, share=None, shares=(0.5, 2))
    with pytest.raises(
        InputError, match=r"^count 0, shares \(0\.5, 2\); expected at least 1, at least 0 and"
    ):
        require_bounds(settings, {"count": Bounds(1), "shares": Bounds(0, 1)})
    require_bounds(settings, {"share": Bounds(1)})


def test_seeds():
    require_seed(0)
    require_seed(2**32 - 1)
    for seed in (-1, 2**32, 2**64):
        with pytest.raises(InputError, match=f"^seed {seed}; expected 0 to 4294967295$"):
            require_seed(seed)


TRAIN = PretrainConfig(output=Path("out"), data=("text.txt",))
CONVERT = ConvertConfig("model", Path("out"), calibration=("text.txt",))
FINETUNE = FinetuneConfig("model", Path("out"), data=("text.txt",))
DICTIONARIES = DictionaryConfig("model", Path("out"), data=("text.txt",))
ALL = (TRAIN, CONVERT, FINETUNE, DICTIONARIES, FitSettings())


@pytest.mark.parametrize("config", ALL, ids=lambda config: type(config).__name__)
def test_no_float_is_nan_or_infinite_and_no_seed_out_of_range(config):
    config.check()
    floats = [field.name for field in dataclasses.fields(config) if "float" in str(field.type)]
    names = [name for name in floats if name not in ("precision", "store")]
    assert bool(names) == (config is not CONVERT)
    for name in names:
        for value in NUMBERS:
            given = (value,) if name == "passes" and config is TRAIN else value
            with pytest.raises(InputError, match=f"{name} .*expected"):
                dataclasses.replace(config, **{name: given}).check()
    for seed in (-1, 2**32):
        with pytest.raises(InputError, match=f"seed {seed}; expected 0 to"):
            dataclasses.replace(config, seed=seed).check()


@pytest.mark.parametrize(
    ("config", "name", "values"),
    [
        (TRAIN, "batch_size", (0, -1)),
        (TRAIN, "checkpoint_steps", (0, -5)),
        (TRAIN, "max_tokens", (0, -1)),
        (TRAIN, "warmup", (1.0, 2.0, -0.1)),
        (TRAIN, "weight_decay", (-0.1,)),
        (TRAIN, "learning_rate", (0.0, -1.0)),
        (TRAIN, "passes", ((0.0,), (-1.0,), (1e300,))),
        (CONVERT, "context", (0, 1, -4)),
        (CONVERT, "calibration_tokens", (0, -1)),
        (CONVERT, "steps", (0, -1)),
        (CONVERT, "batch_size", (0,)),
        (FINETUNE, "exponential_k", (1e6, -1e6)),
        (FINETUNE, "beta2", (1.0, -0.1)),
        (FINETUNE, "max_grad_norm", (0.0, -1.0)),
        (FINETUNE, "calibration_tokens", (0,)),
        (FINETUNE, "tokens", (0, 10**30)),
        (FINETUNE, "warmup", (1.0, 2.0)),
        (DICTIONARIES, "max_tokens", (0,)),
        (DICTIONARIES, "dead_after", (-1, 2**64)),
        (DICTIONARIES, "learning_rate", (1e-320,)),
        (DICTIONARIES, "dead_weight", (-0.5,)),
        (DICTIONARIES, "passes", (0.0, 1e300)),
        (DICTIONARIES, "checkpoint_steps", (0,)),
    ],
)
def test_numbers_that_mean_nothing(config, name, values):
    for value in values:
        with pytest.raises(InputError, match=f"{name} .*; expected ") as told:
            dataclasses.replace(config, **{name: value}).check()
        assert str(value) in str(told.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train --preset stories-1l --batch-size 0", "batch_size 0; expected at least 1"),
        ("train --passes inf", "passes (inf,); expected a finite number"),
        ("train --seed 18446744073709551616", "seed 18446744073709551616; expected 0 to 4294967295"),
        ("finetune stories --context 0", "a context of 0 tokens; expected 2 to the model's"),
        ("finetune stories --checkpoint-steps 0", "checkpoint_steps and log_steps are at least 1"),
        ("finetune stories --warmup 2", "warmup 2.0; expected"),
        ("dictionaries stories --seed -1", "seed -1; expected 0 to 4294967295"),
        ("dictionaries stories --window 0", "window is 0; expected 2 to"),
    ],
)
def test_on_the_command_line(arguments, said, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("A cat saw a dog. " * 50)
    command, *given = arguments.split()
    given += ["-o", str(tmp_path / "out"), "--data", str(tmp_path / "text.txt")]
    assert main([command, *given]) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_convert_on_the_command_line(tmp_path, capsys):
    for given, said in (
        ("--context 0", "context 0; expected at least 2"),
        ("--seed -1", "seed -1; expected"),
    ):
        text = ["--calibration", "text.txt"]
        assert main(["convert", "stories", "-o", str(tmp_path / "out"), *text, *given.split()]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "report", "eigen --layer 0 --all-tokens"])
def test_seeds_of_other_commands(command, tmp_path, capsys):
    name, *more = command.split()
    assert main([name, *more, "-o", str(tmp_path / "out"), "--seed", "-1"]) == 2
    assert "seed -1; expected 0 to 4294967295" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
