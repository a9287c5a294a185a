"""Cases of tokenizers, and of the settings of generation that lie beside a model."""

import json
from random import Random

from calls import CALLS, at, on_model, slug
from mutate_json import put
from sandbox import Case


def _vocabulary(change):
    def spoil(path, random):
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return spoil


def _more_tokens(value):
    vocabulary = value["model"]["vocab"]
    vocabulary |= {f"extra{i}": len(vocabulary) + i for i in range(500)}


def _no_special(value):
    value["added_tokens"] = []
    value["post_processor"] = None


def _only_sentencepiece(folder, random):
    """A `tokenizer.model` of random bytes and nothing else."""
    model = folder / "in" / "model"
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.model").write_bytes(random.randbytes(500))


def _only_config(folder, random):
    (folder / "in" / "model" / "tokenizer.json").unlink()


TOKENIZERS = {
    "vocabulary-larger": _vocabulary(_more_tokens),
    "no-special-tokens": _vocabulary(_no_special),
    "empty-vocabulary": _vocabulary(lambda value: value["model"].update(vocab={}, merges=[])),
    "negative-ids": _vocabulary(lambda value: value["model"]["vocab"].update(a=-1)),
    "huge-ids": _vocabulary(lambda value: value["model"]["vocab"].update(a=10**9)),
    "same-ids": _vocabulary(lambda value: value["model"]["vocab"].update(a=5, b=5)),
    "merges-of-nothing": _vocabulary(lambda value: value["model"].update(merges=[["zzz", "yyy"]])),
    "merges-text": _vocabulary(lambda value: value["model"].update(merges="a b")),
    "model-unknown": _vocabulary(lambda value: value["model"].update(type="Oracle")),
    "decoder-unknown": _vocabulary(lambda value: value.update(decoder={"type": "Oracle"})),
    "no-model": _vocabulary(lambda value: value.pop("model")),
    "regex": _vocabulary(
        lambda value: value.update(
            normalizer={"type": "Replace", "pattern": {"Regex": "(a+)+$("}, "content": ""}
        )
    ),
}


def tokenizer_cases(random):
    for name, mutate in TOKENIZERS.items():
        yield from on_model(
            f"tokenizer/{name}", "model", at("model/tokenizer.json", mutate), random, loader="tokenizer"
        )
        for command in ("generate", random.choice(("eigen", "trace", "report", "hosvd", "dictionaries"))):
            call = CALLS[command]
            yield Case(
                f"tokenizer/{name}/{command}",
                call.arguments,
                call.uses,
                at("model/tokenizer.json", mutate),
                outputs=call.outputs,
            )
    for name, spoil in {"only-sentencepiece": _only_sentencepiece, "only-config": _only_config}.items():
        yield from on_model(f"tokenizer/{name}", "model", spoil, random, loader="tokenizer")
    for key, raw in (
        ("bos_token", "null"),
        ("bos_token", '"<none>"'),
        ("bos_token", "7"),
        ("eos_token", '{"a": 1}'),
        ("tokenizer_class", '"EvilTokenizer"'),
        ("tokenizer_class", "7"),
        ("model_max_length", '"many"'),
        ("model_max_length", "-1"),
        ("extra_special_tokens", '"x"'),
        ("auto_map", '{"AutoTokenizer": ["evil.Tokenizer", null]}'),
        ("chat_template", '"{% for %}"'),
    ):
        mutate = at("model/tokenizer_config.json", _set(key, raw))
        yield from on_model(f"tokenizer/{key}-{slug(raw)}", "model", mutate, random, loader="tokenizer")


def _set(key, raw):
    def spoil(path, random):
        value = json.loads(path.read_text())
        value[key] = None
        path.write_text(json.dumps(value))
        put((key,), raw)(path, random)

    return spoil


def generation_cases():
    """Settings of generation that the file names, and nobody asked for."""
    for key, raw in (
        ("num_beams", "0"),
        ("num_beams", '"many"'),
        ("temperature", "NaN"),
        ("temperature", "-1.0"),
        ("repetition_penalty", "-1.0"),
        ("max_length", "-1"),
        ("max_new_tokens", "0"),
        ("eos_token_id", '"x"'),
        ("eos_token_id", "[]"),
        ("cache_implementation", '"imaginary"'),
        ("forced_bos_token_id", "100000"),
        ("bad_words_ids", "[[100000]]"),
    ):
        mutate = at("model/generation_config.json", _set(key, raw))
        for command in ("generate", "export"):
            call = CALLS[command]
            yield Case(
                f"generation/{key}-{slug(raw)}/{command}",
                call.arguments,
                call.uses,
                mutate,
                outputs=call.outputs,
            )


def cases(seed):
    random = Random(f"{seed} tokenizers")
    yield from tokenizer_cases(random)
    yield from generation_cases()
