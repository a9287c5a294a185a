"""llama2.c's `tok*.bin`: a sentencepiece vocabulary with scores, as a tokenizers BPE with byte fallback."""

from __future__ import annotations

import struct
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bilinear_lm.checkpoints.llama2c import BOS, read_header
from bilinear_lm.checkpoints.sentencepiece_tokenizer import SPACE, Pieces, build_tokenizer
from bilinear_lm.errors import InputError
from bilinear_lm.files import own_file, reading, require_content

_SPECIAL = ("<unk>", "<s>", "</s>")


def tokenizer_file(model: Path) -> Path | None:
    """The `tok*.bin` beside a model file, or None; of several, the one of the model's vocabulary."""
    names = sorted(file.name for file in model.parent.glob("tok*.bin") if file != model)
    files = [own_file(model.parent, name) for name in names]
    if len(files) < 2:
        return files[0] if files else None
    d_vocab = read_header(model).d_vocab
    return next((file for file in files if len(_read_pieces(file)) == d_vocab), None)


def read_tokenizer(path: Path, model: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `path` of the llama2.c model in `model`."""
    header = read_header(model)
    pieces = _read_pieces(path)
    if len(pieces) != header.d_vocab:
        raise InputError(f"{path}: {len(pieces)} tokens, expected the {header.d_vocab} of {model.name}")
    return PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(pieces),
        unk_token=_SPECIAL[0],
        bos_token=_SPECIAL[1],
        eos_token=_SPECIAL[2],
        model_max_length=header.n_ctx,
        clean_up_tokenization_spaces=False,
    )


def _read_pieces(path: Path) -> list[tuple[str, float]]:
    """The vocabulary in the order of its ids, each piece with its score."""
    require_content(path, "expected the vocabulary of a llama2.c model there")
    with reading(path):
        data = path.read_bytes()
    pieces: list[tuple[str, float]] = []
    at = 4  # after the length of the longest piece
    try:
        while at < len(data):
            score, length = struct.unpack_from("<fi", data, at)
            text = data[at + 8 : at + 8 + length]
            if not 0 <= length == len(text):
                raise InputError(f"{path}: truncated or damaged, token {len(pieces)} has length {length}")
            pieces.append((text.decode("utf-8"), score))
            at += 8 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a llama2.c tokenizer ({error})") from error
    return pieces


def _tokenizer(pieces: list[tuple[str, float]]) -> Tokenizer:
    # llama2.c writes <s> and </s> between line breaks, and a space for sentencepiece's mark of one.
    names = [*_SPECIAL, *(text.replace(" ", SPACE) for text, _ in pieces[len(_SPECIAL) :])]
    return build_tokenizer(
        Pieces(
            names=tuple(names),
            scores=tuple(score for _, score in pieces),
            unk_id=0,
            special=tuple(range(len(_SPECIAL))),
            written=tuple(range(len(_SPECIAL), len(names))),
        ),
        bos=BOS,
    )
