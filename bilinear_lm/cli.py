"""The command line. Bad input ends in one line that says what to do, and exit status 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import tyro

from bilinear_lm.commands.checkpoints import export, generate, info
from bilinear_lm.commands.eigen import eigen
from bilinear_lm.commands.finetune import convert, finetune
from bilinear_lm.commands.hosvd import hosvd
from bilinear_lm.commands.interactions import interactions
from bilinear_lm.commands.report import report
from bilinear_lm.commands.trace import trace
from bilinear_lm.errors import InputError
from finetune.config import PretrainConfig
from finetune.dictionary_config import DictionaryConfig


def train(config: tyro.conf.OmitArgPrefixes[PretrainConfig]) -> None:
    """Train a bilinear language model, or its SwiGLU twin, from scratch."""
    from finetune.from_scratch import pretrain

    record = pretrain(config)
    if "validation" in record:
        loss = record["validation"]
        print(f"{loss['nats_per_token']:.4f} nats per token, {loss['bits_per_byte']:.4f} bits per byte")
    print(config.output)


def dictionaries(config: tyro.conf.OmitArgPrefixes[DictionaryConfig]) -> None:
    """Train dictionaries (sparse autoencoders) of a model's activations."""
    from finetune.dictionaries import train_dictionaries

    print(f"{'site':<14}{'variance explained':>20}{'loss recovered':>16}{'dead':>7}")
    for site, record in train_dictionaries(config).items():
        found = record["fidelity"]
        print(
            f"{site!s:<14}{found['variance_explained']:>20.3f}{found['loss_recovered']:>16.3f}"
            f"{found['dead_features']:>7}"
        )
    print(config.output)


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
