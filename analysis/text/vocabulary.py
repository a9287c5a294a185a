"""Tokens as people can read them: their text, with what cannot be seen made visible."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}

_SENTENCEPIECE_SPACE = "▁"

_NO_TEXT = re.compile(r"⟨(0x[0-9A-F]{2}|U\+[0-9A-F]{4,6}|\d+)⟩")


@shown
@dataclass(frozen=True)
class Vocabulary:
    """The text of every token, in the order of their ids.

    A token that holds only a part of a UTF-8 character has its bytes as ⟨0xE2⟩, and a row of the
    embedding without a token its number as ⟨32001⟩.
    """

    texts: tuple[str, ...]
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
        """The vocabulary of a tokenizer for a model whose embedding has `size` rows."""
        names = tokenizer.convert_ids_to_tokens(list(range(min(size, len(tokenizer)))))
        added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
        plain = _byte_level_text if _is_byte_level(tokenizer) else _sentencepiece_text
        texts = [
            added[index] if index in added else f"⟨{index}⟩" if name is None else plain(name)
            for index, name in enumerate(names)
        ]
        texts += [f"⟨{index}⟩" for index in range(len(names), size)]
        return cls(tuple(texts), tokenizer)

    @property
    def words(self) -> list[int]:
        """The tokens of two characters or more with a letter among them: words and parts of words.

        A tokenizer has them because they occur. Single characters and bytes it has in any case, and those
        that never occur share one direction, against all tokens that do.
        """
        special = set(self.tokenizer.all_special_ids)
        return [
            token
            for token, text in enumerate(self.texts)
            if token not in special
            and len(text) > 1
            and any(map(str.isalpha, text))
            and not _NO_TEXT.search(visible(text))
        ]

    def label(self, token: int) -> str:
        """The token on one line, with blanks and control characters as signs: `␣the`, `⏎`."""
        return visible(self.texts[token]) or "⟨empty⟩"

    def find(self, text: str) -> int:
        """The token with this text, else with a blank in front of it.

        The signs of `label` may stand for the characters: `␣run` is the token with the blank.
        """
        if not isinstance(text, str):
            raise InputError(f"token {text!r}; expected its text, as `Vocabulary.texts` has it")
        for sign, character in zip(_SIGNS.values(), _SIGNS, strict=True):
            text = text.replace(sign, character)
        for candidate in (text, f" {text}"):
            if text and candidate in self.texts:
                return self.texts.index(candidate)
        pieces = [self.label(token) for token in self.tokenizer.encode(text, add_special_tokens=False)]
        raise InputError(
            f"{text!r} is not one token of this model: it splits into {', '.join(pieces) or 'nothing'}; "
            "expected one token such as ' the', or 'A - B, C' for a token A against others"
        )


def visible(text: str, keep: str = "") -> str:
    """The text with a sign for each blank or control character that is not in `keep`."""
    return "".join(character if character in keep else _sign(character) for character in text)


def joined(texts: Iterable[str]) -> str:
    """The texts of tokens after each other, with the bytes of split characters put together again."""
    return re.sub("(⟨0x[0-9A-F]{2}⟩)+", _of_bytes, "".join(texts))


def _of_bytes(match: re.Match[str]) -> str:
    data = bytes(int(byte, 16) for byte in re.findall("0x([0-9A-F]{2})", match[0]))
    return data.decode("utf-8", errors="replace")


def _sign(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    # Control and format characters, surrogates, unassigned ones; line, paragraph and wide separators.
    if unicodedata.category(character)[0] in "CZ":
        return f"⟨U+{ord(character):04X}⟩"
    return character


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and '"ByteLevel"' in json.dumps(json.loads(backend.to_str())["decoder"])


def _byte_alphabet() -> dict[str, int]:
    """The character by which byte-level tokenizers write each byte: itself where it prints."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_alphabet()


def _byte_level_text(name: str) -> str:
    if any(character not in _BYTES for character in name):
        return name
    return _utf8(bytes(_BYTES[character] for character in name))


def _sentencepiece_text(name: str) -> str:
    if match := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", name):
        return _utf8(bytes([int(match[1], 16)]))
    return name.replace(_SENTENCEPIECE_SPACE, " ")


def _utf8(data: bytes) -> str:
    # surrogateescape turns a byte that does not decode into the surrogate U+DC00 + byte.
    text = data.decode("utf-8", errors="surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda match: f"⟨0x{ord(match[0]) - 0xDC00:02X}⟩", text)


def require_same_tokens(
    tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, name: str, other_name: str
) -> None:
    """Raises InputError unless the tokenizers of two checkpoints give tokens the same numbers."""
    ours, theirs = tokenizer.get_vocab(), other.get_vocab()
    if ours == theirs:
        return
    token = next(token for token in [*ours, *theirs] if ours.get(token) != theirs.get(token))
    raise InputError(
        f"{other_name}: its tokenizer has {token!r} as {theirs.get(token)}, that of {name} as "
        f"{ours.get(token)}; expected two checkpoints of one tokenizer"
    )
