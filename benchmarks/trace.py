"""Following a logit down through a model: a prompt by `attribute`, the weights by `static_circuit`.

    python benchmarks/trace.py [--device cuda]

Models are random, with a dictionary before and one after each MLP. All sites share one set of random weights,
32 features of which are active at a position (top-k). In random weights everything is about equally strong:
`share` keeps far more than there is room for, and graphs end at `max_nodes`, 500 by default. The exponents
are slopes of log time and log memory over the log of the size that grows. First the shape of the model that
ships, with prompts of growing length (beside a forward pass), then with dictionaries of growing size. A
static circuit needs the strongest of all pairs of features and the sum of their magnitudes, so that its time
grows with the square of their number.

Last TinyLlama's shape in float32, 4.4 GB, with 8192 features a site (0.13 GB; 5.9 GB for 44 sites of their
own). What is measured comes on top of these, and stands beside a bound,

    4 bytes · d_model · (d_vocab + 2 n_feat + n_layers · (n_kv_heads · d_head + 8 n_pos)) + 2 CHUNK_BYTES:

the unembedding and the value weights with norms folded in, two copies of a decoder, eight vectors a position
and layer, and pieces.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from measure import Measured, begin, exponent, measure, told
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from analysis import LogitTarget, attribute, open_prompt, static_circuit
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.numerics.memory import CHUNK_BYTES
from bilinear_lm.sites import Site
from finetune.pretraining.presets import PRESETS, Preset, new_model

STORIES, TINYLLAMA = "stories", "tinyllama-1.1b"
K = 32
LENGTHS, N_FEAT = [16, 32, 64, 128, 256], 1024
SIZES, N_POS = [512, 2048, 8192, 32768], 64
STATIC_SIZES, NODES_STATIC = SIZES[:3], 100
N_FEAT_LARGE, NODES_STATIC_LARGE = 8192, 20
TARGET = LogitTarget(token=7)


def fresh_model(name: str, n_pos: int, device: str) -> tuple[PreTrainedModel, Tensor]:
    """A random model, and a prompt."""
    # Pools stop their processes: tqdm's own lock, between processes, would be reported as leaked.
    tqdm.set_lock(threading.RLock())
    torch.manual_seed(0)
    model = new_model(PRESETS[name]).eval().to(device)
    return model, torch.randint(PRESETS[name].d_vocab, (n_pos,), device=device)


def dictionaries(name: str, n_feat: int, device: str) -> dict[Site, Dictionary]:
    """A random dictionary for the sites before and after all MLPs."""
    preset = PRESETS[name]
    decoder = normalize(torch.randn(n_feat, preset.d_model, device=device), dim=1)
    shared = Dictionary(decoder.T.contiguous(), decoder, activation="topk", k=K)
    return {Site(layer, point): shared for layer in range(preset.n_layers) for point in ("mlp-in", "mlp-out")}


def prompt(name: str, n_feat: int, n_pos: int, device: str) -> Callable[[], object]:
    (model, ids), found = fresh_model(name, n_pos, device), dictionaries(name, n_feat, device)
    return lambda: attribute(open_prompt(model, ids, found), TARGET)


def weights(name: str, n_feat: int, max_nodes: int, device: str) -> Callable[[], object]:
    (model, _), found = fresh_model(name, 1, device), dictionaries(name, n_feat, device)
    return lambda: static_circuit(model, TARGET, found, max_nodes=max_nodes)


def forward(name: str, n_pos: int, device: str) -> Callable[[], object]:
    model, ids = fresh_model(name, n_pos, device)

    def run() -> object:
        with torch.inference_mode():
            return model(input_ids=ids.unsqueeze(0), use_cache=False)

    return run


def time_lengths(device: str) -> None:
    print(f"| tokens | attribute, {N_FEAT} features a site | forward pass | times as long |")
    print("|---|---|---|---|")
    found = []
    for n_pos in LENGTHS:
        ours = measure(prompt, STORIES, N_FEAT, n_pos, device=device)
        plain = measure(forward, STORIES, n_pos, device=device)
        found.append(ours)
        ratio = ours.seconds / plain.seconds
        print(f"| {n_pos} | {told(ours)} | {told(plain)} | {ratio:.0f}× |", flush=True)
    print(f"| exponent | {exponent(LENGTHS, found, 'tokens')} | | |\n")


def time_dictionaries(device: str) -> None:
    print(f"| features a site | attribute, {N_POS} tokens | static_circuit, {NODES_STATIC} nodes |")
    print("|---|---|---|")
    on_prompt: list[Measured] = []
    static: list[Measured] = []
    for n_feat in SIZES:
        on_prompt.append(measure(prompt, STORIES, n_feat, N_POS, device=device))
        cells = [told(on_prompt[-1]), ""]
        if n_feat in STATIC_SIZES:
            repeats = 1 if n_feat == STATIC_SIZES[-1] else 3
            static.append(measure(weights, STORIES, n_feat, NODES_STATIC, device=device, repeats=repeats))
            cells[1] = told(static[-1])
        print(f"| {n_feat} | {' | '.join(cells)} |", flush=True)
    slopes = exponent(SIZES, on_prompt, "n"), exponent(STATIC_SIZES, static, "n")
    print(f"| exponent | {' | '.join(slopes)} |\n")


def time_tinyllama(device: str) -> None:
    shape, n_feat = PRESETS[TINYLLAMA], N_FEAT_LARGE
    print(f"| d_model {shape.d_model}, d_mlp {shape.d_mlp}, {shape.n_layers} layers | measured | bound |")
    print("|---|---|---|")
    taken = measure(forward, TINYLLAMA, N_POS, device=device, repeats=1)
    print(f"| forward pass, {N_POS} tokens | {told(taken)} | |", flush=True)
    taken = measure(prompt, TINYLLAMA, n_feat, N_POS, device=device, repeats=1)
    print(f"| attribute, {N_POS} tokens | {told(taken)} | {bound(shape, n_feat, N_POS)} |", flush=True)
    taken = measure(weights, TINYLLAMA, n_feat, NODES_STATIC_LARGE, device=device, repeats=1)
    print(f"| static_circuit, {NODES_STATIC_LARGE} nodes | {told(taken)} | {bound(shape, n_feat, 0)} |")


def bound(shape: Preset, n_feat: int, n_pos: int) -> str:
    """Memory that tracing needs at most above the model and the dictionaries, in float32."""
    values = (shape.n_kv_heads or shape.n_heads) * shape.d_model // shape.n_heads
    numbers = shape.d_model * (shape.d_vocab + 2 * n_feat + shape.n_layers * (values + 8 * n_pos))
    return f"{(4 * numbers + 2 * CHUNK_BYTES) / 2**20:.0f} MiB"


def main() -> None:
    device = begin(__doc__)
    time_lengths(device)
    time_dictionaries(device)
    time_tinyllama(device)


if __name__ == "__main__":
    main()
