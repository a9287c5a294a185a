"""A folder with `tokenizer.model` alone: the ids of sentencepiece, or a refusal."""

import json

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer, sentencepiece_model_pb2
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaTokenizer

from bilinear_lm.checkpoints import load_tokenizer
from bilinear_lm.errors import InputError

from .shared_data import DATA, STORIES, needs_data
from .tiny_models import tiny

WORDS = "Once upon a time a cat and a dog ran to the park, and they saw a big red ball. "
EXACT = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
KINDS = {
    "as Llama's": {"model_type": "bpe", "byte_fallback": True, **EXACT},
    "BPE, NFKC": {"model_type": "bpe", "byte_fallback": True},
    "BPE without bytes": {"model_type": "bpe", **EXACT},
    "as Gemma's": {"model_type": "bpe", "byte_fallback": True, "add_dummy_prefix": False, **EXACT},
    "digits split": {"model_type": "bpe", "byte_fallback": True, "split_digits": True, **EXACT},
    "unigram, NFKC": {"model_type": "unigram"},
    "unigram with bytes": {"model_type": "unigram", "byte_fallback": True, **EXACT},
    "user's pieces": {
        "model_type": "bpe",
        "add_dummy_prefix": False,
        "user_defined_symbols": ["<tab>"],
        **EXACT,
    },
}
TEXTS = (
    "Once upon a time",
    "a cat",
    " a cat",
    "  two  blanks  ",
    "",
    "line\n\nbreaks\tand 1234 digits",
    "naïve Ｆｕｌｌ ﬁ 日本 😀",
    WORDS * 3,
)


def train(folder, **settings):
    folder.mkdir(exist_ok=True)
    (folder / "text.txt").write_text("\n".join(WORDS[i:] for i in range(len(WORDS))))
    size = 340 if settings.get("byte_fallback") else 70
    SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=size,
        minloglevel=5,
        hard_vocab_limit=False,
        **settings,
    )
    (folder / "text.txt").unlink()
    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_of_sentencepiece(tmp_path, kind):
    theirs = train(tmp_path / "model", **KINDS[kind])
    ours = load_tokenizer(tmp_path / "model")
    assert len(ours) == theirs.vocab_size()
    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text)
        assert ours.encode(text) == theirs.encode(text)
    if KINDS[kind].get("byte_fallback"):  # else sentencepiece decodes what is unknown to a sign
        for text in TEXTS:
            assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text))
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_id(), theirs.eos_id())


def test_the_ids_of_llama_tokenizer(tmp_path):
    train(tmp_path / "model", **KINDS["as Llama's"])
    theirs = LlamaTokenizer.from_pretrained(tmp_path / "model")
    ours = load_tokenizer(tmp_path / "model")
    for text in ("Once upon a time", "a cat and a dog", "line\n\nbreaks"):
        assert ours.encode(text) == theirs.encode(text)


def test_beside_a_model_and_its_settings(tmp_path):
    theirs = train(tmp_path / "model", **KINDS["as Llama's"])
    tiny().save_pretrained(tmp_path / "model")
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False},
        "pad_token": "</s>",
        "model_max_length": 16,
    }
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = load_tokenizer(tmp_path / "model")
    assert ours.encode("a cat") == [theirs.bos_id(), *theirs.encode("a cat")]
    assert (ours.pad_token, ours.bos_token, ours.model_max_length) == ("</s>", "<s>", 16)
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    with pytest.raises(InputError, match=r"tokenizer\.model lacks"):
        load_tokenizer(tmp_path / "model")


def test_what_is_saved_again_has_the_same_ids_anywhere(tmp_path):
    theirs = train(tmp_path / "model", **KINDS["as Llama's"])
    load_tokenizer(tmp_path / "model").save_pretrained(tmp_path / "saved")
    for text in TEXTS:
        for again in (AutoTokenizer.from_pretrained(tmp_path / "saved"), load_tokenizer(tmp_path / "saved")):
            assert again.encode(text, add_special_tokens=False) == theirs.encode(text)


def edited(folder, edit):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((folder / "tokenizer.model").read_bytes())
    edit(proto)
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())


def test_a_vocabulary_that_cannot_be_read_exactly(tmp_path):
    train(tmp_path / "model", **KINDS["user's pieces"])

    def prefixed(proto):
        proto.normalizer_spec.add_dummy_prefix = True

    edited(tmp_path / "model", prefixed)  # sentencepiece puts one blank in front, whatever is cut out
    with pytest.raises(InputError, match=r"cannot be read exactly .*came out as"):
        load_tokenizer(tmp_path / "model")
    train(tmp_path / "words", model_type="word", **EXACT)
    with pytest.raises(InputError, match="neither plain BPE nor plain unigram"):
        load_tokenizer(tmp_path / "words")


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"IQ== 0\nIg== 1\n"])
def test_no_sentencepiece_model(tmp_path, content):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(InputError, match="not a sentencepiece model") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", "null", '{"model": {"type": "BPE"}}', '{"a":' * 10_000, '{"version": "9"}']
)
def test_a_tokenizer_json_that_cannot_be_read(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError) as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@needs_data
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma", "mistral", None])
@pytest.mark.parametrize("named", ["LlamaTokenizer", "GPT2Tokenizer", "PreTrainedTokenizerFast", None])
@pytest.mark.parametrize("source", [STORIES, DATA / "tokenizers" / "gpt2"], ids=["stories260K", "gpt2"])
def test_tokenizer_json_is_read_as_it_stands(tmp_path, source, model_type, named):
    """transformers rebuilds the tokenizers of some classes from the vocabulary alone, with other blanks."""
    (tmp_path / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    if model_type is not None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    if named is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named}))
    theirs = Tokenizer.from_file(str(source / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text).ids
        assert (
            ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False).ids
        )


@needs_data
def test_a_vocabulary_that_transformers_reads_as_another(tmp_path):
    source = DATA / "tokenizers" / "gpt2"
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    theirs = Tokenizer.from_file(str(source / "tokenizer.json"))
    for text in TEXTS:
        assert load_tokenizer(tmp_path).encode(text) == theirs.encode(text).ids
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(InputError, match="tokenizer_class is GPT2Tokenizer, and transformers reads"):
        load_tokenizer(tmp_path)


def edited_json(file, edit):
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "edit", "part"),
    [
        ("tokenizer.json", lambda t: t["model"]["vocab"].update(zz=2**32 - 1), "has the id 4294967295"),
        ("tokenizer.json", lambda t: t["added_tokens"][0].update(id=2**31), "has the id 2147483648"),
        ("tokenizer.json", lambda t: t["model"]["vocab"].update(zz=-1), "cannot be read"),
        ("tokenizer.json", lambda t: t["model"]["merges"].append(["zz", "z"]), "cannot be read"),
        ("tokenizer_config.json", lambda t: t.update(model_max_length="many"), "model_max_length is 'many'"),
        ("tokenizer_config.json", lambda t: t.update(bos_token=7), "cannot be read"),
        ("tokenizer_config.json", lambda t: t.update(added_tokens_decoder={"x": 7}), "cannot be read"),
    ],
)
def test_parts_of_a_tokenizer_that_make_no_sense(tmp_path, tiny_tokenizer, file, edit, part):
    tiny_tokenizer.save_pretrained(tmp_path)
    edited_json(tmp_path / file, edit)
    with pytest.raises(InputError, match=part) as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)
