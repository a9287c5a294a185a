"""The command line. Bad input ends in one line that says what to do, and exit status 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import tyro

from bilinear_lm.commands.checkpoints import export, generate, info
from bilinear_lm.commands.eigen import eigen
from bilinear_lm.commands.hosvd import hosvd
from bilinear_lm.commands.interactions import interactions
from bilinear_lm.commands.report import report
from bilinear_lm.commands.trace import trace
from bilinear_lm.errors import InputError
from finetune.commands import convert, dictionaries, finetune, train

_COMMANDS = (
    *(report, info, export, generate, eigen, hosvd, interactions, trace),
    *(train, dictionaries, convert, finetune),
)
COMMANDS: dict[str, Callable[..., Any]] = {command.__name__: command for command in _COMMANDS}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="bilinear-lm",
            description="Bilinear language models, read from their weights.",
            args=arguments,
        )
    except InputError as error:
        print(f"bilinear-lm: {error}", file=sys.stderr)
        return 2
    return 0
