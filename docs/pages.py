"""The code of documentation pages: run from top to bottom, compared with the outputs that the pages show.

    python docs/pages.py             # says where a page shows something else than its code prints
    python docs/pages.py --write     # writes what the code prints into the pages

A page's blocks of Python are one program. A block of text right behind one is what it prints.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?P<between>\n*)(?:^```text\n(?P<shown>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
_NUMBER = re.compile(r"[-+−]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")
TOLERANCE = 0.03
"""Relative difference of two numbers that count as equal: the last digits depend on the machine."""
SMALL = 1e-4
"""Absolute difference that counts as none."""


@dataclass(frozen=True)
class Cell:
    """A block of code and what the page says that it prints."""

    code: str
    shown: str | None
    line: int
    """The line of the page on which the code begins, from 1."""


def pages() -> list[Path]:
    """The pages that have code: those of the documentation, and the README."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in found if "```python" in path.read_text(encoding="utf-8")]


def cells(text: str) -> list[Cell]:
    """The blocks of Python of a page in order, with the blocks of text right behind them.

    >>> cells("```python\\nprint(1)\\n```\\n\\n```text\\n1\\n```\\n")
    [Cell(code='print(1)\\n', shown='1\\n', line=2)]
    """
    return [
        Cell(match["code"], match["shown"], text[: match.start("code")].count("\n") + 1)
        for match in _BLOCK.finditer(text)
    ]


def printed(path: Path) -> list[str]:
    """The outputs of a page's blocks, all run in one namespace, in a folder that is thrown away."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    outputs, before = [], Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for cell in cells(path.read_text(encoding="utf-8")):
                # Errors name the page's own lines.
                code = compile("\n" * (cell.line - 1) + cell.code, str(path), "exec")
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(code, namespace)
                outputs.append(out.getvalue())
        finally:
            os.chdir(before)
    return outputs


def alike(shown: str, printed: str) -> bool:
    """Whether two outputs have the same words, and numbers within `TOLERANCE` of each other.

    >>> alike("loss 1.234", "loss 1.235"), alike("loss 1.2", "loss 1.4"), alike("big", "small")
    (True, False, False)
    """
    if _NUMBER.sub("#", shown).split() != _NUMBER.sub("#", printed).split():
        return False
    pairs = zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=True)
    return all(math.isclose(*map(_value, pair), rel_tol=TOLERANCE, abs_tol=SMALL) for pair in pairs)


def _value(number: str) -> float:
    return float(number.replace(",", "").replace("−", "-"))


def _filled(text: str, outputs: list[str]) -> str:
    rest = iter(outputs)

    def block(match: re.Match[str]) -> str:
        out = next(rest)
        shown = "" if match["shown"] is None else f"```text\n{out}```\n"
        return f"```python\n{match['code']}```\n{match['between']}{shown}"

    return _BLOCK.sub(block, text)


def main(arguments: list[str] | None = None) -> int:
    """Runs the pages that are named, all by default; 1 where one shows something else than it prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true", help="write what the code prints into the pages")
    options = parser.parse_args(arguments)
    wrong = 0
    for path in options.pages or pages():
        text = path.read_text(encoding="utf-8")
        outputs = printed(path.resolve())
        if options.write:
            path.write_text(_filled(text, outputs), encoding="utf-8")
            continue
        for cell, out in zip(cells(text), outputs, strict=True):
            if cell.shown is not None and not alike(cell.shown, out):
                wrong += 1
                print(f"{path}:{cell.line}: shows\n{cell.shown}prints\n{out}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
