import pytest
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from analysis.text.vocabulary import Vocabulary, visible
from bilinear_lm.errors import InputError
from finetune.data.windows import train_tokenizer

TEXTS = ["the cat swims and the dog runs\n", "über the sea € and \t the cat"]


@pytest.fixture(scope="module")
def byte_level():
    return train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="module")
def vocabulary(byte_level):
    return Vocabulary.of(byte_level, len(byte_level) + 2)


@pytest.fixture(scope="module")
def sentencepiece():
    names = ["<unk>", "▁the", "the", "<0x0A>", "<0xE2>", "<0x41>"]
    tokenizer = Tokenizer(BPE({name: i for i, name in enumerate(names)}, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_the_texts_of_a_tokenized_text_make_the_text(byte_level, vocabulary):
    ids = byte_level.encode(TEXTS[0], add_special_tokens=False)
    assert "".join(vocabulary.texts[index] for index in ids) == TEXTS[0]


def test_blanks_and_controls_have_signs(vocabulary, byte_level):
    assert vocabulary.label(vocabulary.find(" the")) == "␣the"
    assert vocabulary.label(byte_level.convert_tokens_to_ids("Ċ")) == "⏎"
    assert vocabulary.label(byte_level.convert_tokens_to_ids("ĉ")) == "⇥"
    assert visible("a\u200b\x00 b\u2028") == "a⟨U+200B⟩⟨U+0000⟩␣b⟨U+2028⟩"
    assert visible("a b\n", keep=" ") == "a b⏎"


def test_a_part_of_a_character_is_shown_as_its_bytes(byte_level, vocabulary):
    assert vocabulary.label(byte_level.convert_tokens_to_ids("â")) == "⟨0xE2⟩"


def test_added_tokens_are_read_as_they_stand(byte_level):
    byte_level = train_tokenizer(TEXTS, 270)
    byte_level.add_tokens(["Ġraw", "<b>"])
    vocabulary = Vocabulary.of(byte_level, len(byte_level))
    assert vocabulary.texts[-2:] == ("Ġraw", "<b>")


def test_rows_without_a_token_have_their_number(byte_level, vocabulary):
    assert vocabulary.label(len(byte_level)) == f"⟨{len(byte_level)}⟩"


def test_words_are_tokens_that_were_met_in_text(byte_level, vocabulary):
    words = {vocabulary.texts[token] for token in vocabulary.words}
    assert {"the", " the", " cat"} & words
    assert all(len(word) > 1 and any(map(str.isalpha, word)) for word in words)
    assert not words & {
        "a",
        "%",
        byte_level.bos_token,
        byte_level.eos_token,
        "⟨0xE2⟩",
        f"⟨{len(byte_level)}⟩",
    }


def test_sentencepiece_names(sentencepiece):
    vocabulary = Vocabulary.of(sentencepiece, 6)
    assert vocabulary.texts == ("<unk>", " the", "the", "\n", "⟨0xE2⟩", "A")
    assert vocabulary.find("the") == 2
    assert vocabulary.find("␣the") == 1


def test_find_tries_the_text_and_then_a_blank_in_front(byte_level):
    byte_level = train_tokenizer(TEXTS, 270)
    byte_level.add_tokens(["tree", " tree", " kite"])
    vocabulary = Vocabulary.of(byte_level, len(byte_level))
    assert vocabulary.texts[vocabulary.find("tree")] == "tree"
    assert vocabulary.texts[vocabulary.find("␣tree")] == " tree"
    assert vocabulary.texts[vocabulary.find("kite")] == " kite"
    assert vocabulary.label(vocabulary.find("⏎")) == "⏎"


def test_find_names_the_pieces_of_what_is_not_one_token(vocabulary):
    with pytest.raises(InputError, match=r"'cat swims' is not one token .*: it splits into .*, .*; expected"):
        vocabulary.find("cat swims")
    with pytest.raises(InputError, match="splits into nothing"):
        vocabulary.find("")
