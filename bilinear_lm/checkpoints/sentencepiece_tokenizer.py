"""sentencepiece vocabularies as tokenizers of the `tokenizers` library, with the ids of sentencepiece itself.

A `tokenizer.model` holds pieces with scores and says how a text is normalised. The tokenizer built from it
is compared with sentencepiece before it is returned. (T. Kudo, J. Richardson, arXiv 1808.06226.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers.models import BPE, Unigram
from tokenizers.processors import TemplateProcessing

from bilinear_lm.errors import InputError
from bilinear_lm.files import require_content
from bilinear_lm.shown import shown

SPACE = "▁"
"""The mark that sentencepiece writes for a blank."""
_UNIGRAM, _BPE = 1, 2
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_PROBES = (
    "Once upon a time, there was a cat.",
    "  two  blanks before, between and behind  ",
    " a blank\n\nand line breaks\twith a tab",
    "naïve café Ｆｕｌｌ ﬁ ½ 日本語 한국어 русский עברית",
    "emoji 😀👩‍👩‍👧 and \x07 control ​ characters",
    "x = [i**2 for i in range(10)]; print('a' * 3)  # 12345.678",
)


@shown
@dataclass(frozen=True)
class Pieces:
    """A vocabulary in the order of its ids, and how text is prepared for it."""

    names: tuple[str, ...]
    scores: tuple[float, ...]
    unk_id: int
    special: tuple[int, ...]
    """Ids of the pieces that stand for no text."""
    written: tuple[int, ...]
    """Ids of the pieces that are spelled as the text they stand for, without bytes."""
    user_defined: tuple[int, ...] = ()
    """Ids of the pieces that are kept whole wherever they occur."""
    unigram: bool = False
    byte_fallback: bool = True
    dummy_prefix: bool = True
    """Whether a blank is put in front of a text."""
    one_blank: bool = False
    """Whether blanks at the ends are removed, and several in a row become one."""
    charsmap: bytes = b""
    """sentencepiece's compiled table of characters to replace."""


def build_tokenizer(pieces: Pieces, bos: int | None) -> Tokenizer:
    """The tokenizer of a vocabulary; `bos` is the id put in front where special tokens are asked for."""
    unk = pieces.names[pieces.unk_id]
    if pieces.unigram:
        scored = list(zip(pieces.names, pieces.scores, strict=True))
        model: Any = Unigram(scored, unk_id=pieces.unk_id, byte_fallback=pieces.byte_fallback)
    else:
        vocabulary = {name: index for index, name in enumerate(pieces.names)}
        model = BPE(
            vocab=vocabulary,
            merges=_merges(vocabulary, pieces.scores),
            unk_token=unk,
            fuse_unk=True,
            byte_fallback=pieces.byte_fallback,
        )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(_normalizers(pieces))
    stripped = [decoders.Strip(content=" ", left=1)] if pieces.dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *stripped]
    )
    if bos is not None:
        name = pieces.names[bos]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{name} $A", pair=f"{name} $A {name} $B", special_tokens=[(name, bos)]
        )
    special = [AddedToken(pieces.names[i], special=True, normalized=False) for i in pieces.special]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(pieces.names[i], normalized=False) for i in pieces.user_defined])
    return tokenizer


def _normalizers(pieces: Pieces) -> list[Any]:
    steps: list[Any] = [normalizers.Precompiled(pieces.charsmap)] if pieces.charsmap else []
    if pieces.one_blank:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if pieces.dummy_prefix else []
    return [*steps, normalizers.Replace(" ", SPACE)]


def _merges(vocabulary: dict[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every split of a piece into two pieces, those of the piece with the highest score first."""
    merges = []
    for piece in sorted(vocabulary, key=lambda piece: (-scores[vocabulary[piece]], vocabulary[piece])):
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        known = [(left, right) for left, right in splits if left in vocabulary and right in vocabulary]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return merges


def read_sentencepiece(path: Path, with_bos: bool = False) -> tuple[Tokenizer, dict[str, str]]:
    """The tokenizer of a `tokenizer.model`, and its special tokens by their names in transformers.

    With `with_bos` the beginning-of-sequence token goes in front, where special tokens are asked for.

    Raises InputError for a file that is not sentencepiece's, and for a vocabulary whose ids differ from
    sentencepiece's.
    """
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    require_content(path, "expected a sentencepiece model there")
    data = path.read_bytes()
    try:
        theirs = SentencePieceProcessor(model_proto=data)
    except RuntimeError as error:
        raise InputError(
            f"{path}: not a sentencepiece model ({' '.join(str(error).split())}); expected one, or "
            "tokenizer.json beside it"
        ) from error
    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(data)
    if not proto.pieces:
        raise InputError(f"{path}: not a sentencepiece model (no pieces); expected one, or tokenizer.json")
    pieces = _pieces(proto, path)
    ids = {"bos": theirs.bos_id(), "eos": theirs.eos_id(), "unk": theirs.unk_id(), "pad": theirs.pad_id()}
    tokens = {f"{name}_token": pieces.names[index] for name, index in ids.items() if index >= 0}
    ours = build_tokenizer(pieces, ids["bos"] if with_bos and ids["bos"] >= 0 else None)
    _require_equal_ids(ours, theirs, pieces, path)
    return ours, tokens


def _pieces(proto: Any, path: Path) -> Pieces:
    trained, normal = proto.trainer_spec, proto.normalizer_spec
    kinds = [piece.type for piece in proto.pieces]
    if trained.model_type not in (_UNIGRAM, _BPE) or _UNUSED in kinds or trained.treat_whitespace_as_suffix:
        raise _cannot(path, "it is neither plain BPE nor plain unigram")
    control = [index for index, kind in enumerate(kinds) if kind == _CONTROL]
    return Pieces(
        names=tuple(piece.piece for piece in proto.pieces),
        scores=tuple(piece.score for piece in proto.pieces),
        unk_id=trained.unk_id,
        special=(trained.unk_id, *control),
        written=tuple(index for index, kind in enumerate(kinds) if kind in (_NORMAL, _USER_DEFINED)),
        user_defined=tuple(index for index, kind in enumerate(kinds) if kind == _USER_DEFINED),
        unigram=trained.model_type == _UNIGRAM,
        byte_fallback=trained.byte_fallback,
        dummy_prefix=normal.add_dummy_prefix,
        one_blank=normal.remove_extra_whitespaces,
        charsmap=normal.precompiled_charsmap,
    )


def _require_equal_ids(ours: Tokenizer, theirs: Any, pieces: Pieces, path: Path) -> None:
    """Raises InputError where sentencepiece gives other ids, on texts of all kinds and on every piece."""
    special = {pieces.names[index] for index in pieces.special}
    words = [pieces.names[index].replace(SPACE, " ") for index in pieces.written]
    of_pieces = ["".join(words[first::97]) for first in range(97)]
    for text in (*_PROBES, *of_pieces):
        if any(name in text for name in special):
            continue  # sentencepiece reads a special token in a text as letters, transformers as itself
        got, expected = ours.encode(text, add_special_tokens=False).ids, theirs.encode(text)
        if got != expected:
            raise _cannot(path, f"for {text[:40]!r} its ids {expected[:6]} … came out as {got[:6]} …")


def _cannot(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path}: a sentencepiece model that cannot be read exactly ({reason}); expected tokenizer.json "
        "beside it, save one with the library that trained it"
    )
