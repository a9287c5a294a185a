"""Cases of spoiled models: bytes, headers, configurations and weights."""

import struct
from random import Random

from calls import LOADERS, at, on_model
from mutate_bytes import BYTES, FILES
from mutate_json import DOCUMENTS, RAW_VALUES, drawn_json, put
from mutate_safetensors import SAFETENSORS
from sandbox import Case

# What names no file of weights, or no numbers that are weights.
_REFUSED = {"value-NaN", "value-infinite", "dtype-float64-1e300", "tensor-missing", "tensor-renamed"}
_REFUSED |= {
    "tensor-extra",
    "header-twice-a-name",
    "shape-huge",
    "no-tensors",
    "tensor-half",
    "dtype-complex",
}


def _changes(name, random):
    """Another folder to draw for each mutation, so that all are met."""
    return random.choice(("model", "swiglu"))


def bytes_cases(random):
    for name, mutate in (BYTES | FILES).items():
        for file, loader in (
            ("model.safetensors", "model"),
            ("config.json", random.choice(("model", "info"))),
            ("tokenizer.json", "tokenizer"),
        ):
            folder = _changes(name, random)
            yield from on_model(
                f"bytes/{file}/{name}", folder, at(f"{folder}/{file}", mutate), random, loader=loader
            )
        for file, model, loader in (
            ("tiny.bin", "llama2c/tiny.bin", "model"),
            ("tok280.bin", "llama2c/tiny.bin", "tokenizer"),
            ("model.safetensors", "published", "model"),
        ):
            folder = model.split("/")[0]
            cases = on_model(
                f"bytes/{folder}-{file}/{name}", model, at(f"{folder}/{file}", mutate), random, loader=loader
            )
            yield random.choice(list(cases))


def header_cases(random):
    """Headers of llama2.c that lie."""
    for index in range(7):
        for value in (0, -1, 2**31 - 1, random.randrange(1, 100)):

            def lie(path, random, index=index, value=value):
                data = bytearray(path.read_bytes())
                struct.pack_into("<i", data, 4 * index, value)
                path.write_bytes(data)

            yield Case(
                f"llama2c/header-{index}/{value}",
                ("in/llama2c/tiny.bin",),
                ("llama2c",),
                at("llama2c/tiny.bin", lie),
                "loaders:model",
            )


SIZES = ("num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size", "num_attention_heads")
SIZES += ("num_key_value_heads", "head_dim")


def json_cases(random):
    for name, mutate in DOCUMENTS.items():
        for file in ("config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json"):
            folder = _changes(name, random)
            loader = "tokenizer" if file.startswith("tokenizer") else "model"
            cases = list(
                on_model(f"json/{file}/{name}", folder, at(f"{folder}/{file}", mutate), random, loader=loader)
            )
            yield from cases if file == "config.json" else [random.choice(cases)]
    for size in SIZES:
        for value in ("billion", "two-to-the-64", "zero", "minus-one", "5000-digits"):
            mutate = at("model/config.json", put((size,), RAW_VALUES[value]))
            for loader in ("info", "model"):
                yield Case(
                    f"json/{size}/{value}/{loader}", ("in/model",), spoil=mutate, function=LOADERS[loader]
                )
    for name, keys, raw in (
        ("eps-NaN", ("rms_norm_eps",), "NaN"),
        ("eps-negative", ("rms_norm_eps",), "-1.0"),
        ("eps-infinite", ("rms_norm_eps",), "1e999"),
        ("eps-text", ("rms_norm_eps",), '"1e-5"'),
        ("theta-zero", ("rope_parameters", "rope_theta"), "0"),
        ("theta-NaN", ("rope_parameters", "rope_theta"), "NaN"),
        ("theta-negative", ("rope_parameters", "rope_theta"), "-1"),
        ("rope-unknown", ("rope_parameters", "rope_type"), '"spiral"'),
        ("model-type-list", ("model_type",), '["llama"]'),
        ("model-type-number", ("model_type",), "7"),
        ("model-type-unknown", ("model_type",), '"blackbox"'),
        ("model-type-encoder", ("model_type",), '"bert"'),
        ("remote-code", ("auto_map",), '{"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}'),
        ("activation-unknown", ("hidden_act",), '"sigmoidal"'),
        ("activation-list", ("hidden_act",), '["linear"]'),
        ("context-huge", ("max_position_embeddings",), str(10**12)),
        ("context-zero", ("max_position_embeddings",), "0"),
        ("bos-outside", ("bos_token_id",), "100000"),
        ("eos-negative", ("eos_token_id",), "-5"),
        ("pad-huge", ("pad_token_id",), str(10**9)),
    ):
        yield from on_model(f"json/{name}", "model", at("model/config.json", put(keys, raw)), random)
    for number in range(40):
        what, mutate = drawn_json(random, number)
        yield random.choice(
            list(on_model(f"json/random-{what}", "model", at("model/config.json", mutate), random))
        )


def safetensors_cases(random):
    for name, mutate in SAFETENSORS.items():
        folder = _changes(name, random)
        right = "refusal" if name in _REFUSED else "any"
        cases = on_model(
            f"safetensors/{name}", folder, at(f"{folder}/model.safetensors", mutate), random, right=right
        )
        for case in cases:
            if case.arguments[0] != "info":  # reads no numbers
                yield case
        yield Case(
            f"safetensors/{name}/info",
            (f"in/{folder}",),
            (folder,),
            at(f"{folder}/model.safetensors", mutate),
            LOADERS["info"],
        )
    for name in ("value-NaN", "tensor-renamed", "tensor-turned", "dtype-float64-1e300", "tensor-a-number"):
        yield from on_model(
            f"safetensors/published-{name}",
            "published",
            at("published/model.safetensors", SAFETENSORS[name]),
            random,
        )


def cases(seed):
    random = Random(f"{seed} models")
    for make in (bytes_cases, header_cases, json_cases, safetensors_cases):
        yield from make(random)
