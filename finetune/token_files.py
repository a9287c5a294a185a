"""Training text as token files in the run's folder, read through memory maps by every process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bilinear_lm.checkpoints.huggingface import one_line
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder, read_text
from finetune.data import Windows, documents, token_pieces
from finetune.finetune_config import FinetuneConfig


def training_windows(config: FinetuneConfig, run: Path, tokenizer: PreTrainedTokenizerBase) -> Windows:
    """The windows of a run; of several processes the first writes the token files, unless they are there."""
    assert config.context is not None
    tokens = run / "tokens"
    with PartialState().main_process_first():
        if not tokens.exists():
            with new_folder(tokens) as folder:
                for number, source in enumerate(config.data):
                    _write(folder / f"{number}.bin", source, tokenizer, config.tokens)
    streams = [np.memmap(tokens / f"{n}.bin", dtype=np.int32, mode="r") for n in range(len(config.data))]
    for stream, source in zip(streams, config.data, strict=True):
        if len(stream) < 2 * config.context:
            raise InputError(
                f"{source}: {len(stream)} tokens of text, too short for windows of {config.context}; "
                "give more text"
            )
    total = sum(map(len, streams))
    passes = 1.0 if config.tokens is None else config.tokens / total
    first = tokenizer.bos_token_id if config.first_token else None
    return Windows(streams, [passes] * len(streams), context=config.context, first=first, seed=config.seed)


def validation_windows(
    config: FinetuneConfig, tokenizer: PreTrainedTokenizerBase, most: int = 100
) -> Int[Tensor, "window pos"] | None:
    """The first windows of the validation text, cut like those of training; None where none are asked for."""
    if config.validation is None or config.validation_steps is None:
        return None
    assert config.context is not None
    text = read_text(config.validation)
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    front = [tokenizer.bos_token_id] if config.first_token and tokenizer.bos_token_id is not None else []
    width = config.context - len(front)
    rows = torch.tensor(ids[: len(ids) // width * width][: most * width]).view(-1, width)
    if not len(rows):
        raise InputError(f"{config.validation}: {len(ids)} tokens of text; expected at least {width}")
    return torch.cat([torch.tensor([front] * len(rows), dtype=rows.dtype).view(len(rows), -1), rows], dim=1)


def _write(path: Path, source: str, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> None:
    """Tokenizes a source into a file of int32."""
    with path.open("wb") as file:
        name = Path(source).name
        for piece in token_pieces(_readable(source), tokenizer, limit=limit, desc=f"tokenize {name}"):
            file.write(piece.tobytes())
        if not file.tell():
            raise InputError(f"{source}: no text in it; expected documents to train on")


def _readable(source: str) -> Iterator[str]:
    """Its documents; a disk or network that fails is told from one that cannot be written to."""
    try:
        yield from documents(source)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({one_line(error)}); run again") from error
