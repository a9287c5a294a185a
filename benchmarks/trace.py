"""Following a logit down through a model: a prompt by `attribute`, the weights by `static_circuit`.

    python benchmarks/trace.py [--device cuda] [--only lengths nodes dictionaries tinyllama long]

Models are random, with a dictionary before and one after each MLP. All sites share one set of random weights,
32 features of which are active at a position (top-k). In random weights everything is about equally strong:
`share` keeps far more than there is room for, and graphs end at `max_nodes`, 500 by default. The exponents
are slopes of log time and log memory over the log of the size that grows. First the shape of the model that
ships, with prompts of growing length (beside a forward pass), graphs of growing size, and dictionaries of
growing size. A static circuit needs the strongest of all pairs of features and the sum of their magnitudes,
so that its time grows with the square of their number.

Last TinyLlama's shape in float32, 4.4 GB, with 8192 features a site (0.13 GB; 5.9 GB for 44 sites of their
own); long prompts with one and two of its layers and 2,048 tokens in the vocabulary, for what they take a
layer, and on a GPU with all of it. What is measured comes on top of model and dictionaries, and stands beside
a bound of numbers of 4 bytes,

    d_model · (d_vocab + 2 n_feat + n_layers · 2 n_kv_heads · d_head) + 3 CHUNK_BYTES
    + n_pos · ((12 n_layers + 16) · d_model + 8 d_mlp + 3 d_vocab):

the unembedding with the norm folded in, two copies of a decoder, key and value weights of each layer, pieces;
for each position twelve vectors of a layer (the streams, the MLP's output, queries, keys and values, what the
two dictionaries miss, three gradients, and the input for the backward pass), the inside of one block, logits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import torch
from measure import Measured, begin_parts, exponent, measure, told
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from analysis import LogitTarget, attribute, open_prompt, static_circuit
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.numerics.memory import CHUNK_BYTES
from bilinear_lm.sites import Site
from finetune.pretraining.presets import PRESETS, Preset, new_model

STORIES, TINYLLAMA = PRESETS["stories"], PRESETS["tinyllama-1.1b"]
K = 32
LENGTHS, N_FEAT, NODES = [16, 32, 64, 128, 256], 1024, [500, 3000]
SIZES, N_POS = [512, 2048, 8192, 32768], 64
STATIC_SIZES, NODES_STATIC = SIZES[:3], 100
N_FEAT_LARGE, NODES_LARGE, NODES_STATIC_LARGE = 8192, 500, 20
LONG, LAYERS_LONG, NODES_LONG, VOCAB_LONG = [1024, 2048, 4096], [1, 2], 5, 2048
TARGET = LogitTarget(token=7)


def fresh_model(shape: Preset, n_pos: int, device: str) -> tuple[PreTrainedModel, Tensor]:
    """A random model, and a prompt."""
    # Pools stop their processes: tqdm's own lock, between processes, would be reported as leaked.
    tqdm.set_lock(threading.RLock())
    torch.manual_seed(0)
    shape = replace(shape, n_ctx=max(shape.n_ctx, n_pos))
    with torch.device(device):
        model = new_model(shape).eval()
    return model, torch.randint(shape.d_vocab, (n_pos,), device=device)


def dictionaries(shape: Preset, n_feat: int, device: str) -> dict[Site, Dictionary]:
    """A random dictionary for the sites before and after all MLPs."""
    decoder = normalize(torch.randn(n_feat, shape.d_model, device=device), dim=1)
    shared = Dictionary(decoder.T.contiguous(), decoder, activation="topk", k=K)
    return {Site(layer, point): shared for layer in range(shape.n_layers) for point in ("mlp-in", "mlp-out")}


def prompt(shape: Preset, n_feat: int, n_pos: int, max_nodes: int, device: str) -> Callable[[], object]:
    (model, ids), found = fresh_model(shape, n_pos, device), dictionaries(shape, n_feat, device)
    return lambda: attribute(open_prompt(model, ids, found), TARGET, max_nodes=max_nodes)


def weights(shape: Preset, n_feat: int, max_nodes: int, device: str) -> Callable[[], object]:
    (model, _), found = fresh_model(shape, 1, device), dictionaries(shape, n_feat, device)
    return lambda: static_circuit(model, TARGET, found, max_nodes=max_nodes)


def forward(shape: Preset, n_pos: int, device: str) -> Callable[[], object]:
    model, ids = fresh_model(shape, n_pos, device)

    def run() -> object:
        with torch.inference_mode():
            return model(input_ids=ids.unsqueeze(0), use_cache=False)

    return run


def time_lengths(device: str) -> None:
    print(f"| tokens | attribute, {N_FEAT} features a site | forward pass | times as long |")
    print("|---|---|---|---|")
    found = []
    for n_pos in LENGTHS:
        ours = measure(prompt, STORIES, N_FEAT, n_pos, NODES[0], device=device)
        plain = measure(forward, STORIES, n_pos, device=device)
        found.append(ours)
        ratio = ours.seconds / plain.seconds
        print(f"| {n_pos} | {told(ours)} | {told(plain)} | {ratio:.0f}× |", flush=True)
    print(f"| exponent | {exponent(LENGTHS, found, 'tokens')} | | |\n")


def time_nodes(device: str) -> None:
    print(f"| nodes | attribute, {N_POS} tokens, {N_FEAT} features a site |")
    print("|---|---|")
    found = []
    for max_nodes in NODES:
        found.append(measure(prompt, STORIES, N_FEAT, N_POS, max_nodes, device=device))
        print(f"| {max_nodes} | {told(found[-1])} |", flush=True)
    print(f"| exponent | {exponent(NODES, found, 'nodes')} |\n")


def time_dictionaries(device: str) -> None:
    print(f"| features a site | attribute, {N_POS} tokens | static_circuit, {NODES_STATIC} nodes |")
    print("|---|---|---|")
    on_prompt: list[Measured] = []
    static: list[Measured] = []
    for n_feat in SIZES:
        on_prompt.append(measure(prompt, STORIES, n_feat, N_POS, NODES[0], device=device))
        cells = [told(on_prompt[-1]), ""]
        if n_feat in STATIC_SIZES:
            repeats = 1 if n_feat == STATIC_SIZES[-1] else 3
            static.append(measure(weights, STORIES, n_feat, NODES_STATIC, device=device, repeats=repeats))
            cells[1] = told(static[-1])
        print(f"| {n_feat} | {' | '.join(cells)} |", flush=True)
    slopes = exponent(SIZES, on_prompt, "n"), exponent(STATIC_SIZES, static, "n")
    print(f"| exponent | {' | '.join(slopes)} |\n")


def time_tinyllama(device: str) -> None:
    shape, n_feat = TINYLLAMA, N_FEAT_LARGE
    repeats = 1 if device == "cpu" else 2  # a GPU loads its programs in the first
    print(f"| d_model {shape.d_model}, d_mlp {shape.d_mlp}, {shape.n_layers} layers | measured | bound |")
    print("|---|---|---|")
    taken = measure(forward, shape, N_POS, device=device, repeats=repeats)
    print(f"| forward pass, {N_POS} tokens | {told(taken)} | |", flush=True)
    taken = measure(prompt, shape, n_feat, N_POS, NODES_LARGE, device=device, repeats=repeats)
    print(f"| attribute, {N_POS} tokens | {told(taken)} | {bound(shape, n_feat, N_POS)} |", flush=True)
    taken = measure(weights, shape, n_feat, NODES_STATIC_LARGE, device=device, repeats=repeats)
    print(f"| static_circuit, {NODES_STATIC_LARGE} nodes | {told(taken)} | {bound(shape, n_feat, 0)} |\n")


def time_long(device: str) -> None:
    shape, n_feat = TINYLLAMA, N_FEAT_LARGE
    settings = [(LAYERS_LONG[0], n_pos) for n_pos in LONG] + [(n, LONG[-1]) for n in LAYERS_LONG[1:]]
    cuts = [(replace(shape, n_layers=n, d_vocab=VOCAB_LONG), n_pos) for n, n_pos in settings]
    if device != "cpu":
        cuts.append((shape, LONG[-1]))
    heads = f"d_model {shape.d_model}, d_mlp {shape.d_mlp}, {shape.n_heads} heads"
    print(f"| {heads}: layers | tokens | attribute, {NODES_LONG} nodes | bound | all patterns of a layer |")
    print("|---|---|---|---|---|")
    for cut, n_pos in cuts:
        taken = measure(prompt, cut, n_feat, n_pos, NODES_LONG, device=device, repeats=1)
        patterns = f"{4 * shape.n_heads * n_pos**2 / 2**20:.0f} MiB"
        cells = [str(cut.n_layers), str(n_pos), told(taken), bound(cut, n_feat, n_pos), patterns]
        print(f"| {' | '.join(cells)} |", flush=True)


def bound(shape: Preset, n_feat: int, n_pos: int) -> str:
    """Memory that tracing needs at most above the model and the dictionaries, in float32."""
    shared = (shape.n_kv_heads or shape.n_heads) * shape.d_model // shape.n_heads
    numbers = shape.d_model * (shape.d_vocab + 2 * n_feat + shape.n_layers * 2 * shared)
    each = (12 * shape.n_layers + 16) * shape.d_model + 8 * shape.d_mlp + 3 * shape.d_vocab
    return f"{(4 * (numbers + n_pos * each) + 3 * CHUNK_BYTES) / 2**20:.0f} MiB"


PARTS = {
    "lengths": time_lengths,
    "nodes": time_nodes,
    "dictionaries": time_dictionaries,
    "tinyllama": time_tinyllama,
    "long": time_long,
}


def main() -> None:
    device, chosen = begin_parts(__doc__, list(PARTS))
    for part in chosen:
        PARTS[part](device)


if __name__ == "__main__":
    main()
