"""Settings of an edit on the command line, and the interactions that it names."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bilinear_lm.checks import is_index
from bilinear_lm.device import DeviceName
from bilinear_lm.errors import InputError
from finetune.bounds import require_kinds
from finetune.choices import Store

How = Literal["delete", "scale", "insert"]

SPELLED = {
    "delete": "OUTPUT:LEFT,RIGHT",
    "scale": "OUTPUT:LEFT,RIGHT=FACTOR",
    "insert": "OUTPUT:LEFT,RIGHT=AMOUNT",
}
"""How each kind of edit is written."""


@dataclass(frozen=True)
class Named:
    """One edit as it is written: features by number, or directions of a file by name."""

    how: How
    output: str
    inputs: tuple[str, str]
    """Twice the same for the interaction of an input with itself, which is written once."""
    amount: float = 0.0

    @property
    def text(self) -> str:
        """The interaction as it is written."""
        return f"{self.output}:{','.join(dict.fromkeys(self.inputs))}"


@dataclass(frozen=True)
class EditConfig:
    """Settings of `bilinear-lm edit`."""

    model: tyro.conf.Positional[str]
    """Folder or hub name of a bilinear language model, or the name of one that ships."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """New folder for the edited model: a plain Hugging Face checkpoint, its tokenizer, and edit.json."""
    layer: int
    """Layer of the MLP to edit; negative numbers count from the end."""
    delete: tuple[str, ...] = ()
    """Interactions whose coefficient becomes 0, each OUTPUT:LEFT,RIGHT: features by number, such as
    540:12,33, or 540:12 for a feature with itself."""
    scale: tuple[str, ...] = ()
    """Interactions whose coefficient is multiplied, each OUTPUT:LEFT,RIGHT=FACTOR."""
    insert: tuple[str, ...] = ()
    """Interactions to whose coefficient a number is added, each OUTPUT:LEFT,RIGHT=AMOUNT."""
    inputs: str | None = None
    """Dictionary of what the MLP reads, at mlp-in or resid-mid; a shipped model has its own."""
    outputs: str | None = None
    """Dictionary of what the MLP writes, at mlp-out; a shipped model has its own."""
    keep: tuple[str, ...] = ()
    """Input features that the new hidden units must not read, besides those of an interaction."""
    directions: Path | None = None
    """Safetensors file of vectors of the model's width; their names may stand for features."""
    names: Path | None = None
    """JSON file of your own names for features, as the page of `report` saves it; edit.json tells them."""
    store: Store = "float32"
    """Precision of the weights on disk."""
    device: DeviceName = "auto"
    """Where to compute."""

    def check(self) -> None:
        """Raises InputError where the settings do not fit together."""
        require_kinds(self)
        if not self.named():
            raise InputError("no edits; expected one or more of --delete, --scale and --insert")
        repeated = [name for number, name in enumerate(self.keep) if name in self.keep[:number]]
        if repeated:
            raise InputError(f"--keep names {repeated[0]} twice; expected each feature once")
        for each in self.named():
            if both := [name for name in each.inputs if name in self.keep]:
                raise InputError(f"--keep names {both[0]}, an input of {each.text}; expected other features")

    def named(self) -> tuple[Named, ...]:
        """The edits in the order delete, scale, insert."""
        return tuple(self._parsed())

    def _parsed(self) -> Iterator[Named]:
        for how in ("delete", "scale", "insert"):
            for text in getattr(self, how):
                yield parse(text, how)


def parse(text: str, how: How) -> Named:
    """An edit as it is written on the command line.

    >>> parse("540:12,33=0.5", "scale")
    Named(how='scale', output='540', inputs=('12', '33'), amount=0.5)
    """
    interaction, equals, amount = text.partition("=") if how != "delete" else (text, "", "")
    output, colon, inputs = interaction.partition(":")
    names = [name.strip() for name in inputs.split(",")]
    if (
        not colon
        or not output.strip()
        or len(names) > 2
        or not all(names)
        or (how != "delete") != bool(equals)
    ):
        raise InputError(
            f"--{how} {text!r}; expected {SPELLED[how]}, such as "
            f"{'540:12,33' if how == 'delete' else '540:12,33=0.5'}"
        )
    if len(names) == 2 and names[0] == names[1]:
        raise InputError(
            f"--{how} {text!r} names {names[0]} twice; write it once for its interaction with itself, "
            f"{output.strip()}:{names[0]}"
        )
    return Named(how, output.strip(), (names[0], names[-1]), _number(amount, how, text) if equals else 0.0)


def _number(amount: str, how: How, text: str) -> float:
    try:
        value = float(amount)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"--{how} {text!r}: {amount!r} is no finite number; expected {SPELLED[how]}")
    return value


def feature_number(name: str, n: int, what: str) -> int:
    """The feature that a text names; InputError where there is none."""
    if not name.isascii() or not name.isdecimal() or len(name) > 9 or not is_index(int(name), n):
        raise InputError(f"{what} {name!r} does not exist; expected 0 to {n - 1}, or a name in --directions")
    return int(name)
