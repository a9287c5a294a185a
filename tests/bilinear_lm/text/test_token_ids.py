"""Tokens of long texts: the same ids as without cuts, and no more than a piece at once."""

import random
from itertools import product

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import bilinear_lm.text.token_ids
from analysis.text.windows import token_windows
from bilinear_lm import InputError, text_loss
from bilinear_lm.text.token_ids import document_ids, token_id_pieces, token_ids

CORPUS = ["Once upon a time a cat and a dog ran to the park.", "They saw 12345 big red balls, and it's fine!"]
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def bpe(byte_level):
    """Byte-level BPE with numbers by threes, or BPE without words and with a blank in front of the text."""
    tokenizer = Tokenizer(models.BPE(unk_token=None if byte_level else "<unk>", fuse_unk=not byte_level))
    if byte_level:
        split = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, words])
    else:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if byte_level else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator([*CORPUS, "aaaa aaaaaaaaa 123456789 123456"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<unk>")


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.fixture(params=["ours", "by threes", "no words", "WordPiece", "Unigram", "GPT-2", "stories260K"])
def tokenizer(request):
    if request.param == "ours":
        return request.getfixturevalue("tiny_tokenizer")
    if request.param in ("GPT-2", "stories260K"):
        shared = request.getfixturevalue("shared")
        folder = {"GPT-2": "tokenizers/gpt2"}.get(request.param, request.param)
        return AutoTokenizer.from_pretrained(shared / folder)
    return {
        "by threes": lambda: bpe(byte_level=True),
        "no words": lambda: bpe(byte_level=False),
        "WordPiece": wordpiece,
        "Unigram": unigram,
    }[request.param]()


@pytest.fixture
def small(monkeypatch):
    """Pieces of a few hundred characters."""

    def set_to(piece, overlap, largest=1 << 24):
        for name, value in (("PIECE", piece), ("OVERLAP", overlap), ("LARGEST", largest)):
            monkeypatch.setattr(bilinear_lm.text.token_ids, name, value)

    return set_to


def whole(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False, verbose=False)


PARTS = [
    *("a", "b", "cat", "the ", " ", "  ", "\n", "\n\n", "\t", "1", "23", ".", "!?", "'s", "A", "xyz"),
    *("é", "e\u0301", "ﬁ", "漢字", "🙂", "👩\u200d👩\u200d👧", "\u00a0", "０"),
    *("<|endoftext|>", "<s>", "<unk>"),
]


@pytest.mark.parametrize(("piece", "overlap"), [(256, 64), (300, 150), (1024, 128)])
def test_cutting_changes_no_id(tokenizer, small, piece, overlap):
    small(piece, overlap)
    generator = random.Random(piece)
    for _ in range(60):
        parts = generator.sample(PARTS, generator.randint(1, len(PARTS)))
        text = "".join(generator.choice(parts) for _ in range(generator.randint(300, 1500)))
        assert token_ids(tokenizer, text).tolist() == whole(tokenizer, text)


@pytest.mark.parametrize(
    ("kind", "unit"),
    [
        *product(["tiny", "by threes", "no words"], ["a", "1", "1234567", " ", "aab", "ran to the park. "]),
        *product(["tiny", "by threes"], ["\n", "漢字"]),  # one unknown token for the other
    ],
)
def test_merged_tokens_are_joined_in_pieces_of_a_fixed_size(kind, unit, small, tiny_tokenizer, monkeypatch):
    """With or without blanks: the tokenizer never gets more than a piece."""
    small(512, 256, largest=512)
    tokenizer = tiny_tokenizer if kind == "tiny" else bpe(byte_level=kind == "by threes")
    text = unit * (5000 // len(unit))
    expected = whole(tokenizer, text)
    lengths = []
    call = type(tokenizer).__call__

    def noted(self, text, **options):
        lengths.extend(map(len, [text] if isinstance(text, str) else text))
        return call(self, text, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", noted)
    assert token_ids(tokenizer, text).tolist() == expected
    assert max(lengths) <= 512
    assert sum(lengths) > 5000 - len(unit)


def test_a_word_that_cannot_be_cut(small):
    """WordPiece makes one unknown token of a long word, so its text grows until it is whole."""
    tokenizer = wordpiece()
    text = "a cat ran " * 50 + "a" * 3000 + " to the park" * 50
    small(256, 64)
    assert token_ids(tokenizer, text).tolist() == whole(tokenizer, text)
    small(256, 64, largest=1024)
    with pytest.raises(
        InputError, match="of 4100 characters cannot be tokenised in parts: 1024 of them, from"
    ):
        token_ids(tokenizer, text)


def test_pieces_come_one_by_one(tiny_tokenizer, small):
    small(256, 64)
    pieces = list(token_id_pieces(tiny_tokenizer, CORPUS[0] * 40))
    assert len(pieces) > 5
    assert np.concatenate(pieces).tolist() == whole(tiny_tokenizer, CORPUS[0] * 40)
    assert token_ids(tiny_tokenizer, "").tolist() == []


@pytest.mark.parametrize("end", [None, 7])
def test_documents_of_all_lengths(tiny_tokenizer, small, end, monkeypatch):
    small(256, 64)
    monkeypatch.setattr(bilinear_lm.text.token_ids, "BATCH", 500)
    texts = ["a cat", CORPUS[0] * 20, "", "a dog"] + CORPUS * 40 + [CORPUS[1] * 9]
    pieces = list(document_ids(tiny_tokenizer, texts, end))
    ends = [] if end is None else [end]
    expected = [token for text in texts for token in (*whole(tiny_tokenizer, text), *ends)]
    assert np.concatenate(pieces).tolist() == expected
    assert max(map(len, pieces)) < 800


def test_whole_texts_are_cut_wherever_they_are_read(make_model, tiny_tokenizer, small):
    model, text = make_model(d_vocab=len(tiny_tokenizer)), CORPUS[0] * 30
    loss, windows = text_loss(model, tiny_tokenizer, text), token_windows(tiny_tokenizer, text, 32)
    small(256, 64, largest=256)
    assert text_loss(model, tiny_tokenizer, text) == loss
    assert token_windows(tiny_tokenizer, text, 32) == windows
    assert all(type(token) is int for token in windows[0])


@pytest.mark.parametrize("folder", ["tokenizers/gpt2", "stories260K"])
def test_a_play_in_pieces_of_the_usual_size(shared, folder):
    tokenizer = AutoTokenizer.from_pretrained(shared / folder)
    text = (shared / "text/tinyshakespeare/input.txt").read_text(encoding="utf-8")
    assert len(text) > 8 * bilinear_lm.text.token_ids.PIECE
    assert token_ids(tokenizer, text).tolist() == whole(tokenizer, text)
