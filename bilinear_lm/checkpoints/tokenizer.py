"""`load_tokenizer`: the tokenizer that belongs to a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bilinear_lm.arguments import checked
from bilinear_lm.checkpoints.folder import detect, is_published_config, require_own_files
from bilinear_lm.checkpoints.huggingface import REFUSALS, one_line, quiet
from bilinear_lm.checkpoints.llama2c_tokenizer import read_tokenizer, tokenizer_file
from bilinear_lm.checkpoints.locate import TOKENIZER_FILES, locate
from bilinear_lm.checkpoints.sentencepiece_tokenizer import read_sentencepiece
from bilinear_lm.checkpoints.sizes import require_counts
from bilinear_lm.errors import InputError
from bilinear_lm.files import read_json, reading

# What a published config.json calls a tokenizer → its repository and the token that pads.
PUBLISHED_TOKENIZERS = {
    "ts-4096": ("tdooms/ts-tokenizer-4096", "[EOS]"),
    "ss-4096": ("tdooms/ss-tokenizer-4096", "[EOS]"),
    "mistral": ("mistral-community/Mixtral-8x22B-v0.1", "</s>"),
    "gpt2": ("openai-community/gpt2", "<|endoftext|>"),
}
_SETTINGS = (
    *("bos_token", "eos_token", "unk_token", "pad_token", "padding_side", "model_max_length"),
    *("clean_up_tokenization_spaces", "chat_template"),
)
"""Settings that a tokenizer_config.json adds to a sentencepiece model."""
_HIGHEST_ID = 10_000_000
_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


@checked
def load_tokenizer(
    path_or_repo: str | os.PathLike[str], revision: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    The one in the folder is taken; else the one that a published checkpoint's config.json names, from the
    hub; for a llama2.c file the `tok*.bin` beside it.
    """
    path = locate(path_or_repo, revision, TOKENIZER_FILES)
    with reading(path):
        return _load(path)


def _load(path: Path) -> PreTrainedTokenizerBase:
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
    with reading(path):
        return tokenizer_file(path) is not None if path.is_file() else _has_vocabulary(path)


def _has_vocabulary(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _VOCABULARY_FILES)


def _published_name(folder: Path) -> str | None:
    if not (folder / "config.json").is_file():
        return None
    config = read_json(folder / "config.json")
    return config.get("tokenizer") if is_published_config(config) else None


def _from_folder(folder: Path, **options: Any) -> PreTrainedTokenizerBase:
    _require_readable(folder)
    with quiet():
        try:
            if (folder / "tokenizer.json").is_file():
                # The class that a config names may ignore parts of the file, as a Llama's does its blanks.
                return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True, **options)
            if (folder / "tokenizer.model").is_file():
                return _from_sentencepiece(folder, **options)
            loaded = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True, **options
            )
        except InputError:  # which is a ValueError
            raise
        except REFUSALS as error:
            raise InputError(f"{folder}: its tokenizer cannot be read ({one_line(error)})") from error
    _require_class(loaded, folder)
    return loaded


def _require_readable(folder: Path) -> None:
    """Raises InputError for files that transformers would open elsewhere, or fail on without a word."""
    require_own_files(folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"):
        values = read_json(folder / name) if (folder / name).is_file() else {}
        longest = values.get("model_max_length")
        if name == "tokenizer_config.json" and not isinstance(longest, int | float | None):
            raise InputError(f"{folder / name}: model_max_length is {longest!r}; expected a number of tokens")
    if (folder / "config.json").is_file():
        require_counts(read_json(folder / "config.json"), folder)
    file = folder / "tokenizer.json"
    if file.is_file():
        _require_ids(read_json(file), file)
        try:
            Tokenizer.from_buffer(file.read_bytes())
        except ValueError as error:
            raise InputError(f"{folder}: its tokenizer cannot be read ({one_line(error)})") from error


def _require_ids(content: dict[str, Any], file: Path) -> None:
    """Raises InputError for an id that no vocabulary has: `tokenizers` makes room for all below it."""
    model, added = content.get("model"), content.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    if too_high := [index for index in ids if isinstance(index, int) and index > _HIGHEST_ID]:
        raise InputError(f"{file}: a token has the id {too_high[0]}; expected at most {_HIGHEST_ID}")


def _from_sentencepiece(folder: Path, **options: Any) -> PreTrainedTokenizerBase:
    file = folder / "tokenizer_config.json"
    config = read_json(file) if file.is_file() else {}
    with_bos = config.get("add_bos_token") is True
    tokenizer, tokens = read_sentencepiece(folder / "tokenizer.model", with_bos)
    named = {name: config[name] for name in _SETTINGS if config.get(name) is not None}
    for name in tokens:
        if isinstance(named.get(name), dict):  # as transformers wrote tokens before version 4.34
            named[name] = named[name].get("content")
    settings: dict[str, Any] = tokens | named | options
    loaded = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)
    if len(loaded) != tokenizer.get_vocab_size(with_added_tokens=False):
        raise InputError(
            f"{file}: names special tokens that tokenizer.model lacks; expected tokenizer.json beside it"
        )
    return loaded


def _require_class(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Raises InputError where a vocabulary was read by another class than the one that its folder names."""
    file = folder / "tokenizer_config.json"
    named = read_json(file).get("tokenizer_class") if file.is_file() else None
    got = type(tokenizer).__name__
    if isinstance(named, str) and named.removesuffix("Fast") != got.removesuffix("Fast"):
        raise InputError(
            f"{file}: tokenizer_class is {named}, and transformers reads the vocabulary as a {got}; expected "
            "tokenizer.json beside it, which says how it is read"
        )
