"""Tiny valid inputs of every kind, made in a few seconds; what the cases spoil are copies of them."""

import contextlib
import json
import random
import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

D, FEATURES, LAYERS, VOCABULARY = 16, 24, 2, 300
WORDS = "Once upon a time a cat and a dog ran to the park. They saw a big red ball and were happy. "


def build(folder):
    """Writes all inputs into a folder; each is a file or folder at its top."""
    folder = Path(folder)
    torch.manual_seed(0)
    from finetune.data.windows import train_tokenizer

    tokenizer = train_tokenizer([WORDS], VOCABULARY)
    for name, gate in (("model", "linear"), ("swiglu", "silu")):
        _model(folder / name, tokenizer, gate)
    _sharded(folder)
    _llama2c(folder / "llama2c")
    _published_model(folder / "published")
    (folder / "train.txt").write_text(_stories(120, 0))
    (folder / "held-out.txt").write_text(_stories(20, 1))
    _dictionaries(folder)
    _scope(folder / "scope")
    _results(folder)
    _images(folder / "images")
    _policy(folder / "policy")


def _model(folder, tokenizer, gate):
    from bilinear_lm.checkpoints import save_folder
    from finetune.pretraining.presets import Preset, new_model

    preset = Preset(d_model=D, d_mlp=24, n_layers=LAYERS, n_heads=4, n_kv_heads=2, n_ctx=32, d_vocab=300)
    model = new_model(preset, gate=gate, d_vocab=len(tokenizer))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if name.endswith("norm.weight") else 0.0, 0.3)
    for settings in (model.config, model.generation_config):
        settings.bos_token_id, settings.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    save_folder(model, tokenizer, folder)


def _sharded(folder):
    """The model in several files with an index."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    model.save_pretrained(folder / "sharded", max_shard_size="20KB")
    AutoTokenizer.from_pretrained(folder / "model").save_pretrained(folder / "sharded")


def _llama2c(folder):
    """A llama2.c file of version 0, tied, and its vocabulary of single bytes and a few words."""
    folder.mkdir()
    d, hidden, layers, heads, vocabulary, context = 8, 12, 1, 2, 280, 16
    rows = vocabulary * d + layers * (d + 4 * d * d + d + 3 * d * hidden) + d + context * (d // heads)
    weights = np.random.default_rng(0).normal(0, 0.3, rows).astype("<f4")
    header = struct.pack("<7i", d, hidden, layers, heads, heads, vocabulary, context)
    (folder / "tiny.bin").write_bytes(header + weights.tobytes())
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [" ", *"abcdefghijklmnopqrst"]
    entries = [
        struct.pack("<fi", -float(i), len(piece.encode())) + piece.encode() for i, piece in enumerate(pieces)
    ]
    (folder / "tok280.bin").write_bytes(struct.pack("<i", 8) + b"".join(entries))


def _published_model(folder):
    """A checkpoint in the format of the published bilinear models; its tokenizer is on the hub."""
    folder.mkdir()
    rng, hidden = np.random.default_rng(0), 24
    shapes = {"transformer.wte.weight": (30, D), "lm_head.weight": (30, D)}
    for layer in range(LAYERS):
        prefix = f"transformer.h.{layer}"
        shapes |= {f"{prefix}.attn.qkv.weight": (3 * D, D), f"{prefix}.attn.o.weight": (D, D)}
        shapes |= {f"{prefix}.mlp.w.weight": (2 * hidden, D), f"{prefix}.mlp.p.weight": (D, hidden)}
    tensors = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    config = {"n_layer": LAYERS, "n_head": 4, "n_ctx": 32, "d_model": D, "d_hidden": hidden, "n_vocab": 30}
    config |= {"bilinear": True, "gate": None, "bias": False, "normalization": True, "tokenizer": "ts-4096"}
    (folder / "config.json").write_text(json.dumps(config))


def _images(folder):
    """The four idx files of images of 4 × 4 pixels in three classes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, n in (("train", 30), ("t10k", 12)):
        pixels, labels = rng.integers(0, 256, (n, 4, 4), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 3
        for kind, numbers in (("images", pixels), ("labels", labels)):
            header = struct.pack(f">4B{numbers.ndim}I", 0, 0, 8, numbers.ndim, *numbers.shape)
            path = folder / f"{split}-{kind}-idx{numbers.ndim}-ubyte"
            path.write_bytes(header + numbers.tobytes())


def _policy(folder):
    from bilinear_lm.environments import Policy, save_policy
    from bilinear_lm.networks import PolicyNetwork, PolicySettings

    save_policy(
        Policy(PolicyNetwork(PolicySettings(channels=(4, 6), d_hidden=12)), "maze", {"limit": 8}), folder
    )


def _stories(count, seed):
    generator = random.Random(seed)
    names, verbs = ["A cat", "A dog", "The big ball", "They"], ["ran to the park", "saw a ball", "were happy"]
    told = (
        " ".join(f"{generator.choice(names)} {generator.choice(verbs)}." for _ in range(8))
        for _ in range(count)
    )
    return "\n<|endoftext|>\n".join(told)


def _dictionaries(folder):
    """One dictionary in each format that is read, of the same random numbers."""
    rng = np.random.default_rng(0)
    W_enc, W_dec = (rng.normal(0, 0.4, shape).astype(np.float32) for shape in ((D, FEATURES), (FEATURES, D)))
    b_enc, b_dec = (rng.normal(0, 0.1, size).astype(np.float32) for size in (FEATURES, D))
    threshold = rng.uniform(0.1, 0.5, FEATURES).astype(np.float32)
    turned = np.ascontiguousarray(W_enc.T)
    saelens = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, "threshold": threshold}
    config = {
        "architecture": "jumprelu",
        "d_in": D,
        "d_sae": FEATURES,
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0", "hook_name": "blocks.1.hook_mlp_out"},
    }
    _write(folder / "saelens", "sae_weights.safetensors", saelens, "cfg.json", config)
    sparsify = {"encoder.weight": turned, "encoder.bias": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    config = {"activation": "topk", "k": 5, "num_latents": FEATURES, "d_in": D}
    _write(folder / "sparsify", "sae.safetensors", sparsify, "cfg.json", config)
    published = {"w_enc.weight": turned, "w_dec.weight": np.ascontiguousarray(W_dec.T), "b_dec": b_dec}
    config = {"point": ["mlp-out", 1], "target": None, "k": 5, "normalize": None}
    _write(folder / "published-scope", "model.safetensors", published, "config.json", config)
    transcoder = {"W_enc": turned, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    _write(folder / "circuit-tracer", "layer_1.safetensors", transcoder)


def _write(folder, weights, tensors, config_name=None, config=None):
    folder.mkdir()
    save_file(tensors, folder / weights)
    if config_name is not None:
        (folder / config_name).write_text(json.dumps(config))


def _scope(folder):
    """Dictionaries of what the MLPs read and write, and a name for a feature of the last one."""
    from bilinear_lm import Dictionary, Site, save_dictionary
    from bilinear_lm.dictionaries.names import save_feature_names

    for layer in range(LAYERS):
        for point in ("mlp-in", "mlp-out"):
            encoder, decoder = 0.4 * torch.randn(D, FEATURES), 0.4 * torch.randn(FEATURES, D)
            site = Site(layer, point)
            made = Dictionary(encoder, decoder, activation="topk", k=4, site=site)
            save_dictionary(made, folder / str(site))
    save_feature_names(folder.with_name("names.json"), {site: {2: "a cat's"}}, {site: made})


def _results(folder):
    """What commands leave behind: an eigendecomposition, a graph, and two runs that were interrupted."""
    import finetune.finetuning.finetune
    import finetune.pretraining.pretrain
    from bilinear_lm.cli import main

    model, data = str(folder / "model"), str(folder / "train.txt")
    eigen = [
        "eigen",
        model,
        "--layer",
        "1",
        "--tokens",
        "a",
        "b",
        "-k",
        "3",
        "-o",
        str(folder / "eigen"),
    ]
    graph = ["trace", model, "--prompt", "A cat", "--eigenvectors", "-o", str(folder / "graph.json")]
    for command in (eigen, graph):
        if main(command):
            raise RuntimeError(f"{command[0]} failed on the inputs of the fuzz")
    for module, name in (
        (finetune.pretraining.pretrain, "save_folder"),
        (finetune.finetuning.finetune, "_finish"),
    ):
        setattr(module, name, _interrupt)
    runs = {
        "train-result": ["train", "--data", data, *TRAIN],
        "finetune-result": ["finetune", str(folder / "swiglu"), "--data", data, *FINETUNE],
    }
    for name, command in runs.items():
        with contextlib.suppress(KeyboardInterrupt):
            main([*command, "-o", str(folder / name)])


def _interrupt(*_, **__):
    raise KeyboardInterrupt


TRAIN = ("--preset", "stories-1l", "--batch-size", "4", "--passes", "0.6", "--precision", "float32")
TRAIN += ("--checkpoint-steps", "1", "--device", "cpu")
FINETUNE = ("--train-tokens", "1500", "--start", "anneal", "--precision", "float32", "--distillation", "0")
FINETUNE += (
    "--batch-size",
    "4",
    "--checkpoint-steps",
    "5",
    "--calibration-tokens",
    "1000",
    "--device",
    "cpu",
)
