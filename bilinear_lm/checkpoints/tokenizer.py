"""`load_tokenizer`: the tokenizer that belongs to a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bilinear_lm.checkpoints.folder import detect, is_published_config
from bilinear_lm.checkpoints.huggingface import one_line, quiet
from bilinear_lm.checkpoints.llama2c_tokenizer import read_tokenizer, tokenizer_file
from bilinear_lm.checkpoints.locate import TOKENIZER_FILES, locate
from bilinear_lm.errors import InputError
from bilinear_lm.files import read_json

# What a published config.json calls a tokenizer → its repository and the token that pads.
PUBLISHED_TOKENIZERS = {
    "ts-4096": ("tdooms/ts-tokenizer-4096", "[EOS]"),
    "ss-4096": ("tdooms/ss-tokenizer-4096", "[EOS]"),
    "mistral": ("mistral-community/Mixtral-8x22B-v0.1", "</s>"),
    "gpt2": ("openai-community/gpt2", "<|endoftext|>"),
}
_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def load_tokenizer(
    path_or_repo: str | os.PathLike[str], revision: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    It is the one in the folder; else the one that a published checkpoint's config.json names, from the
    hub; for a llama2.c file the `tok*.bin` beside it.
    """
    path = locate(path_or_repo, revision, TOKENIZER_FILES)
    if path.is_file():
        detect(path)
        file = tokenizer_file(path)
        if file is None:
            raise InputError(f"{path}: no tokenizer; expected a tok*.bin of its vocabulary beside it")
        return read_tokenizer(file, path)
    if _has_vocabulary(path):
        return _from_folder(path)
    name = _published_name(path)
    if name is None:
        raise InputError(f"{path}: no tokenizer; expected tokenizer.json beside the model")
    if name not in PUBLISHED_TOKENIZERS:
        known = ", ".join(PUBLISHED_TOKENIZERS)
        raise InputError(f"{path / 'config.json'}: tokenizer is {name!r}; expected one of {known}")
    repo, pad_token = PUBLISHED_TOKENIZERS[name]
    folder = locate(repo, files=TOKENIZER_FILES)
    return _from_folder(folder, pad_token=pad_token, padding_side="right")


def has_tokenizer(path_or_repo: str | os.PathLike[str], revision: str | None = None) -> bool:
    """Whether a tokenizer comes with a checkpoint, as opposed to being named in it or absent."""
    path = locate(path_or_repo, revision, TOKENIZER_FILES)
    return tokenizer_file(path) is not None if path.is_file() else _has_vocabulary(path)


def _has_vocabulary(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _VOCABULARY_FILES)


def _published_name(folder: Path) -> str | None:
    if not (folder / "config.json").is_file():
        return None
    config = read_json(folder / "config.json")
    return config.get("tokenizer") if is_published_config(config) else None


def _from_folder(folder: Path, **options: str) -> PreTrainedTokenizerBase:
    with quiet():
        try:
            return AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True, **options
            )
        except (ValueError, TypeError, KeyError, ImportError, OSError) as error:
            raise InputError(f"{folder}: its tokenizer cannot be read ({one_line(error)})") from error
