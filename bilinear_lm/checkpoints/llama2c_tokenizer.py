"""llama2.c's `tok*.bin`: a sentencepiece vocabulary with scores, as a tokenizers BPE with byte fallback."""

from __future__ import annotations

import struct
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bilinear_lm.checkpoints.llama2c import read_header
from bilinear_lm.errors import InputError

_SPACE = "▁"
_SPECIAL = ("<unk>", "<s>", "</s>")


def tokenizer_file(model: Path) -> Path | None:
    """The `tok*.bin` beside a model file, or None; of several, the one of the model's vocabulary."""
    files = sorted(file for file in model.parent.glob("tok*.bin") if file != model)
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
        tokenizer_object=_byte_fallback_bpe(pieces),
        unk_token=_SPECIAL[0],
        bos_token=_SPECIAL[1],
        eos_token=_SPECIAL[2],
        model_max_length=header.n_ctx,
        clean_up_tokenization_spaces=False,
    )


def _read_pieces(path: Path) -> list[tuple[str, float]]:
    """The vocabulary in the order of its ids, each piece with its score."""
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


def _byte_fallback_bpe(pieces: list[tuple[str, float]]) -> Tokenizer:
    # llama2.c writes <s> and </s> between line breaks, and a space for sentencepiece's mark of one.
    names = [*_SPECIAL, *(text.replace(" ", _SPACE) for text, _ in pieces[len(_SPECIAL) :])]
    vocabulary = {name: i for i, name in enumerate(names)}
    scores = {name: score for name, (_, score) in zip(names, pieces, strict=True)}
    tokenizer = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=_merges(vocabulary, scores),
            unk_token=_SPECIAL[0],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _SPECIAL])
    return tokenizer


def _merges(vocabulary: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every split of a piece into two pieces; a merge comes the earlier, the higher its result's score."""
    merges = []
    for piece in sorted(vocabulary, key=lambda piece: (-scores[piece], vocabulary[piece])):
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        known = [(left, right) for left, right in splits if left in vocabulary and right in vocabulary]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return merges
