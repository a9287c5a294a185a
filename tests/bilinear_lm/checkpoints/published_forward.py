"""The published formats in numpy float64, written from their description: random files and their logits.

A `Case` says in so many words what its forward is; nothing is read off the config as the loader does.
"""

import json
import math
from dataclasses import dataclass, field

import numpy as np
from safetensors.numpy import save_file

N_LAYERS, N_HEADS, N_CTX, D_MODEL, D_HIDDEN, N_VOCAB = 3, 2, 32, 16, 20, 40
D_HEAD = D_MODEL // N_HEADS
SIZES = {"n_layer": N_LAYERS, "n_head": N_HEADS, "n_ctx": N_CTX, "d_model": D_MODEL, "d_hidden": D_HIDDEN}
LAYERS = [f"transformer.h.{i}" for i in range(N_LAYERS)]
NORMS = [f"{layer}.{norm}" for layer in LAYERS for norm in ("n1", "n2")] + ["transformer.n_f"]
IDS = np.random.default_rng(1).integers(0, N_VOCAB, (2, N_CTX))


@dataclass(frozen=True)
class Case:
    config: dict
    """Beside the sizes."""
    out: str = "p"
    activation: str | None = None
    branches: int = 2
    scaled: bool = False
    norms: bool = True
    norm_keys: tuple[str, ...] = ()
    """Suffixes of every norm's parameters, such as ".norm.weight"."""
    norm_bias: str = "before"
    """Where a norm's bias is not zero: "before" attention and MLP, or "nowhere"."""
    biases: tuple[str, ...] = ()
    n_vocab: bool = True
    strays: tuple[str, ...] = ()
    tensors: dict = field(default_factory=dict)


def make(case, folder, seed=0):
    """Writes the case's folder and returns its tensors."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return (rng.normal(size=shape) / math.sqrt(shape[-1])).astype(np.float32)

    # Without norms the model is a polynomial of degree 8: larger inputs would only test float32.
    tensors = {
        "transformer.wte.weight": normal(N_VOCAB, D_MODEL) * (4 if case.norms else 1),
        "lm_head.weight": normal(N_VOCAB, D_MODEL),
    }
    rows = {"attn.qkv": 3 * D_MODEL, "attn.o": D_MODEL, "mlp.w": case.branches * D_HIDDEN}
    rows[f"mlp.{case.out}"] = D_MODEL
    for layer in LAYERS:
        for name, n in rows.items():
            tensors[f"{layer}.{name}.weight"] = normal(n, D_HIDDEN if name == f"mlp.{case.out}" else D_MODEL)
        for name in case.biases:
            tensors[f"{layer}.{name}.bias"] = normal(rows[name]) * 3
        tensors[f"{layer}.attn.rotary.inv_freq"] = np.float32(1e4) ** (-np.arange(0, D_HEAD, 2) / D_HEAD)
    for norm in NORMS:
        for key in case.norm_keys:
            tensors[norm + key] = _norm_parameter(key.split(".")[-1], norm, case, rng)
    tensors |= {key: normal(D_MODEL, D_MODEL) for key in case.strays}
    tensors = {key: np.asarray(value, np.float32) for key, value in (tensors | case.tensors).items()}
    config = SIZES | ({"n_vocab": N_VOCAB} if case.n_vocab else {}) | case.config
    write(folder, config, tensors)
    return tensors


def _norm_parameter(kind, norm, case, rng):
    if kind == "weight":
        return rng.uniform(0.5, 1.5, D_MODEL)
    if kind == "a":
        return rng.uniform(0.5, 1.5, 1)
    if kind == "b":
        return np.full(1, 0.7)
    zero = norm.endswith("n_f") or case.norm_bias == "nowhere"
    return np.zeros(D_MODEL) if zero else rng.normal(size=D_MODEL) / 2


def write(folder, config, tensors):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / "model.safetensors"
    )


def logits(case, tensors, ids=IDS, rotary=True):
    """[batch, pos, d_vocab]: the forward that the case describes."""
    t = {key: value.astype(np.float64) for key, value in tensors.items()}
    scale = 1 / math.sqrt(2 * N_LAYERS) if case.scaled else 1.0
    x = t["transformer.wte.weight"][ids]
    for layer in LAYERS:
        x = x + scale * attention(t, f"{layer}.attn", norm(case, t, f"{layer}.n1", x), rotary)
        x = x + mlp(case, t, f"{layer}.mlp", norm(case, t, f"{layer}.n2", x))
    return norm(case, t, "transformer.n_f", x) @ t["lm_head.weight"].T


def norm(case, t, name, x):
    if not case.norms:
        return x
    values = {key.split(".")[-1]: t[name + key] for key in case.norm_keys}
    mean = (x * x).mean(-1, keepdims=True)
    x = values.get("a", 1.0) * x / np.sqrt(mean + values.get("b", 0.0) + 1e-8)
    return x * values.get("weight", 1.0) + values.get("bias", 0.0)


def linear(t, name, x):
    return x @ t[f"{name}.weight"].T + t.get(f"{name}.bias", 0.0)


def attention(t, name, x, rotary):
    batch, n_pos, _ = x.shape
    q, k, v = linear(t, f"{name}.qkv", x).reshape(batch, n_pos, 3, N_HEADS, D_HEAD).transpose(2, 0, 3, 1, 4)
    if rotary:
        q, k = rotate(q), rotate(k)
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(D_HEAD)
    scores = np.where(np.tril(np.ones((n_pos, n_pos), bool)), scores, -np.inf)
    pattern = np.exp(scores - scores.max(-1, keepdims=True))
    pattern = pattern / pattern.sum(-1, keepdims=True)
    z = (pattern @ v).transpose(0, 2, 1, 3).reshape(batch, n_pos, D_MODEL)
    return linear(t, f"{name}.o", z)


def rotate(x):
    """Coordinates i and i + d_head/2 turned by pos · 10000^(-2i/d_head)."""
    half = D_HEAD // 2
    angle = np.arange(x.shape[-2])[:, None] * 10000.0 ** (-np.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def mlp(case, t, name, x):
    hidden = linear(t, f"{name}.w", x)
    left, right = (hidden[..., :D_HIDDEN], hidden[..., D_HIDDEN:]) if case.branches == 2 else (hidden, 1.0)
    return linear(t, f"{name}.{case.out}", ACTIVATIONS[case.activation](left) * right)


ACTIVATIONS = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
}
