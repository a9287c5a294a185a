"""Training text as token files in the run's folder, read through memory maps by every process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accelerate import PartialState
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder
from bilinear_lm.text.files import read_plain_text
from bilinear_lm.text.token_ids import token_ids
from finetune.choices import Selection
from finetune.data.calibration import head_length, spread_windows
from finetune.data.sources import documents
from finetune.data.windows import Windows, token_pieces, whole_windows
from finetune.finetuning.config import FinetuneConfig
from finetune.runs.manifest import write_manifest


def token_streams(config: FinetuneConfig, run: Path, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """The tokens of each source; the first of several processes writes their files, unless they are there."""
    tokens = run / "tokens"
    with PartialState().main_process_first():
        if not tokens.exists():
            limit = config.tokens
            if limit is not None and config.calibrates:
                limit = max(limit, head_length(config.calibration_tokens, len(config.data)))
            with new_folder(tokens) as folder:
                for number, source in enumerate(config.data):
                    _write(folder / f"{number}.bin", source, tokenizer, limit, config.selection)
                write_manifest(folder)
    return [np.memmap(tokens / f"{n}.bin", dtype=np.int32, mode="r") for n in range(len(config.data))]


def training_windows(
    config: FinetuneConfig, streams: Sequence[np.ndarray], tokenizer: PreTrainedTokenizerBase
) -> Windows:
    """The windows of a run, of at most `config.tokens` tokens of each source."""
    streams = [stream[: config.tokens] for stream in streams]
    for stream, source in zip(streams, config.data, strict=True):
        if len(stream) < 2 * config.window:
            raise InputError(
                f"{source}: {len(stream)} tokens of text, too short for windows of {config.window}; "
                "give more text"
            )
    total = sum(map(len, streams))
    passes = 1.0 if config.tokens is None else config.tokens / total
    first = _first_token(config, tokenizer)
    return Windows(streams, [passes] * len(streams), context=config.window, first=first, seed=config.seed)


def start_windows(
    config: FinetuneConfig, streams: Sequence[np.ndarray], tokenizer: PreTrainedTokenizerBase
) -> Int[Tensor, "window pos"] | None:
    """The windows that the start is measured on; None where it is not measured."""
    if not config.calibrates:
        return None
    return spread_windows(
        config.data,
        streams,
        n_tokens=config.calibration_tokens,
        context=min(config.window, 256),
        first=_first_token(config, tokenizer),
        seed=config.seed,
    )


def validation_windows(
    config: FinetuneConfig, tokenizer: PreTrainedTokenizerBase, most: int = 100
) -> Int[Tensor, "window pos"] | None:
    """The first windows of the validation text, cut like those of training; None where not asked for."""
    if config.validation is None or config.validation_steps is None:
        return None
    ids = token_ids(tokenizer, read_plain_text(config.validation))
    windows = whole_windows(ids, config.window, _first_token(config, tokenizer))[:most]
    if not len(windows):
        raise InputError(
            f"{config.validation}: {len(ids)} tokens of text; expected enough for a window of {config.window}"
        )
    return windows


def _first_token(config: FinetuneConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    return tokenizer.bos_token_id if config.first_token else None


def _write(
    path: Path, source: str, tokenizer: PreTrainedTokenizerBase, limit: int | None, selection: Selection
) -> None:
    """Tokenizes a source into a file of int32."""
    with path.open("wb") as file:
        texts, name = documents(source, selection), Path(source).name
        for piece in token_pieces(texts, tokenizer, limit=limit, desc=f"tokenize {name}"):
            file.write(piece.tobytes())
        if not file.tell():
            raise InputError(f"{source}: no text in it; expected documents to train on")
