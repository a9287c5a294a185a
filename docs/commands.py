"""The commands of documentation pages, in blocks of `sh`: each is run, or read by what it is a command of.

    python docs/commands.py          # says which commands are not taken

A line is a command, longer ones end in a backslash; "&&" parts two of them. A command is **run** where it is
one of `QUICK` and has nothing to be filled in, those of a page one after the other in a folder that is thrown
away. What takes long (`report`, `images`, `policy read`), trains, serves, needs the hub, or reads what only a
reader has is **read**, so that no option or target is shown that does not exist: `bilinear-lm` by its own
parser, also behind `accelerate launch … -m`; `make` by a dry run; `pip` by the extras of pyproject.toml;
`python` by whether the file is there.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilinear_lm import cli

ROOT = Path(__file__).parents[1]
QUICK = ("info", "generate", "trace", "eigen", "edit", "policy play")
"""Commands of `bilinear-lm` that take about a second of a shipped model."""

_BLOCK = re.compile(r"^```(?:sh|bash|shell|console)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*(?:\.\.\.)?")
_VARIABLE = re.compile(r"(?P<name>[A-Z_]+)=(?P<value>.*)")


class NotTaken(Exception):
    """A command that its program does not take."""


@dataclass(frozen=True)
class Command:
    """A command of a page, in words."""

    words: tuple[str, ...]
    line: int
    """The line of the page on which it begins, from 1."""

    @property
    def is_run(self) -> bool:
        """Whether it is run, and not only read."""
        name, *rest = self.words
        filled_in = not any(map(_PLACEHOLDER.fullmatch, rest))
        return name == "bilinear-lm" and filled_in and " ".join(rest).startswith(QUICK)


def pages() -> list[Path]:
    """The pages that have commands: those of the documentation, and the README."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in found if commands(path.read_text(encoding="utf-8"))]


def commands(text: str) -> list[Command]:
    """The commands of a page in order, without comments, with the variables that a block sets in their place.

    >>> commands("```sh\\nMODEL=a\\ncd b && python c.py $MODEL \\\\\\n  --d    # all\\n```\\n")[1]
    Command(words=('python', 'c.py', 'a', '--d'), line=3)
    """
    found = []
    for block in _BLOCK.finditer(text):
        variables: dict[str, str] = {}
        line = text[: block.start("code")].count("\n") + 1
        for whole in re.split(r"(?<!\\)\n", block["code"]):
            for words in _parted(shlex.split(whole.replace("\\\n", " "), comments=True)):
                while words and (given := _VARIABLE.fullmatch(words[0])):
                    variables[given["name"]] = given["value"]
                    words = words[1:]
                if words:
                    found.append(Command(tuple(_filled_in(word, variables) for word in words), line))
            line += whole.count("\n") + 1
    return found


def _parted(words: list[str]) -> list[list[str]]:
    """The words of a line by command."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _filled_in(word: str, variables: dict[str, str]) -> str:
    return variables.get(word[1:], word) if word.startswith("$") else word


def read(command: Command) -> None:
    """Raises NotTaken for a command that the program it is for would refuse, of which nothing is run."""
    name, *rest = command.words
    if name == "accelerate" and "-m" in rest:
        name, rest = "bilinear-lm", rest[rest.index("-m") + 2 :]
    if name not in _READERS:
        raise NotTaken(f"nothing here reads a command {name!r}; expected one of {', '.join(_READERS)}")
    _READERS[name](rest)


def run(command: Command) -> None:
    """Runs a command of `bilinear-lm`; raises NotTaken where it fails."""
    _called(command.words[1:], cli.commands())


def check(path: Path) -> Iterator[tuple[Command, NotTaken]]:
    """Runs or reads the commands of a page; those that are not taken."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for command in commands(path.read_text(encoding="utf-8")):
                try:
                    read(command)
                    if command.is_run:
                        run(command)
                except NotTaken as error:
                    yield command, error
        finally:
            os.chdir(before)


def _our_own(arguments: Sequence[str]) -> None:
    _called(arguments, {name: _does_nothing(function) for name, function in cli.commands().items()})


def _does_nothing(function: Callable[..., Any]) -> Callable[..., None]:
    """A command with the arguments of another."""

    @functools.wraps(function)
    def nothing(*_: Any, **__: Any) -> None:
        pass

    return nothing


def _called(arguments: Sequence[str], functions: dict[str, Callable[..., Any]]) -> None:
    own, cli.commands = cli.commands, lambda: functions
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            status: Any = cli.main(list(arguments))
    except SystemExit as end:  # the parser's
        status = end.code
    finally:
        cli.commands = own
    if status:
        raise NotTaken(f"bilinear-lm {shlex.join(arguments)}: status {status}: {said.getvalue().strip()}")


def _make(arguments: Sequence[str]) -> None:
    dry = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if dry.returncode:
        raise NotTaken(dry.stderr.strip())


def _pip(arguments: Sequence[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
        if missing := {*name.split(",")} - {*project["optional-dependencies"]}:
            raise NotTaken(f"pyproject.toml has no extra {', '.join(missing)}")


def _python(arguments: Sequence[str]) -> None:
    if not (ROOT / arguments[0]).is_file():
        raise NotTaken(f"{arguments[0]}: no such file")


def _elsewhere(arguments: Sequence[str]) -> None:
    """Commands that are no matter of this project: `git`, `cd`."""


_READERS: dict[str, Callable[[Sequence[str]], None]] = {
    "bilinear-lm": _our_own,
    "make": _make,
    "pip": _pip,
    "python": _python,
    "git": _elsewhere,
    "cd": _elsewhere,
}


def main() -> int:
    """Runs or reads the commands of all pages; 1 where one is not taken."""
    wrong = [(path, *each) for path in pages() for each in check(path)]
    for path, command, error in wrong:
        print(f"{path}:{command.line}: {error}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
