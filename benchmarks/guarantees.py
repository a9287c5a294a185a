"""Ranges and claims beside dense ways, ascent, samples and a million tokens of text.

    python benchmarks/guarantees.py [--device cuda] [--directions N ...] [TEXT ...]

Ascent is projected gradient ascent of 100 steps from 32 random starts, in float64, on 200 directions each of
random layers with and without biases and of `stories`. Times are of random layers, which have no gaps in
their spectra; `eigh` is timed on a few directions. With texts (files, documents separated by <|endoftext|>)
all features of `stories` are certified and held against what a million tokens of them reach, and claims of
its features against the first of the texts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from measure import measure, told

import bilinear_lm as bl
from analysis import (
    certify,
    certify_features,
    eigendecompose,
    eigenvectors_needed,
    hosvd,
    truncate,
    verify,
)
from analysis.features import explained_on_text
from analysis.text.windows import document_windows
from bilinear_lm import BilinearTensor
from bilinear_lm.sites import Site, mlp_inputs, site_activations

TOKENS = 1_000_000
SIZE, EIGH = (1024, 4096), 8
"""d and d_mlp of the layer that is timed, and how many of its directions `eigh` gets."""
SEEDS = 3
SAMPLES = 2_000_000
STEPS, STARTS = 100, 32


def random_layer(d: int, d_mlp: int, seed: int, biases: bool, device: str = "cpu") -> BilinearTensor:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) / shape[0] ** 0.5).to(device)

    weights = draw(d, d_mlp), draw(d, d_mlp), draw(d_mlp, d)
    if not biases:
        return BilinearTensor(*weights)
    return BilinearTensor.from_layer(*weights, draw(d_mlp), draw(d_mlp), draw(d))


def ascent(tensor: BilinearTensor, u: torch.Tensor, seed: int) -> torch.Tensor:
    """The largest value that projected gradient ascent reaches on the sphere."""
    width = tensor.d_in - tensor.constant
    generator = torch.Generator().manual_seed(seed)
    matrices = tensor.interaction_matrix(u)
    Q = matrices[:, :width, :width]
    b = matrices[:, :width, width] if tensor.constant else torch.zeros_like(Q[:, 0])
    c = matrices[:, width, width] if tensor.constant else torch.zeros_like(Q[:, 0, 0])
    # Steps of 2 / ‖Q‖: longer ones would follow the most negative eigenvalues as well.
    shift = torch.linalg.matrix_norm(Q, 2)[:, None, None] / 2
    z = torch.randn(len(u), STARTS, width, generator=generator, dtype=Q.dtype)
    for _ in range(STEPS):
        z = z @ Q + b.unsqueeze(1) + shift * z
        z = width**0.5 * torch.nn.functional.normalize(z, dim=-1)
    return ((z * (z @ Q + 2 * b.unsqueeze(1))).sum(-1) + c.unsqueeze(1)).amax(1)


def cases() -> Iterator[tuple[str, BilinearTensor, torch.Tensor]]:
    """Layers and directions that are tried by ascent."""
    for biases in (False, True):
        for seed in range(SEEDS):
            tensor = random_layer(128, 512, seed, biases).to(torch.float64)
            u = torch.randn(200, 128, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            yield f"random {'with biases' if biases else 'without'}, seed {seed}", tensor, u
    model = bl.load_pretrained("stories")
    for layer in range(model.config.num_hidden_layers):
        features = bl.load_dictionary(f"stories-scope/{layer}-mlp-out").encoder.T[:50].double()
        yield f"stories {layer}", bl.mlp_tensor(model, layer).to(torch.float64), features


def beside_ascent() -> None:
    print(
        "| layer | directions | reached by ascent, least and median share | below 0.999 | beyond the bound |"
    )
    print("|---|---|---|---|---|")
    for name, tensor, u in cases():
        reach = certify(tensor, u)
        share = torch.cat([ascent(tensor, part, 0) for part in u.split(25)]) / reach.high
        least, middle = float(share.min()), float(share.median())
        below, beyond = int((share < 0.999).sum()), int((share > 1 + 1e-10).sum())
        print(f"| {name} | {len(u)} | {least:.5f}, {middle:.6f} | {below} | {beyond} |", flush=True)


def ranges(d: int, d_mlp: int, n: int, biases: bool, device: str) -> Callable[[], object]:
    tensor = random_layer(d, d_mlp, 0, biases, device)
    u = torch.randn(n, d, generator=torch.Generator().manual_seed(1)).to(device)
    return lambda: certify(tensor, u)


def full_eigh(d: int, d_mlp: int, n: int, biases: bool, device: str) -> Callable[[], object]:
    tensor = random_layer(d, d_mlp, 0, biases, device)
    u = torch.randn(n, d, generator=torch.Generator().manual_seed(1)).to(device)
    return lambda: [torch.linalg.eigh(tensor.interaction_matrix(row)) for row in u]


def beside_eigh(device: str, directions: list[int]) -> None:
    print("| biases | directions | certify | eigh of every Q | eigh / certify |")
    print("|---|---|---|---|---|")
    for biases in (False, True):
        eigh = measure(full_eigh, *SIZE, EIGH, biases, device=device, repeats=2)
        for n in directions:
            taken = measure(ranges, *SIZE, n, biases, device=device, repeats=1 if n > 64 else 3)
            expected = eigh.seconds / EIGH * n
            print(
                f"| {'yes' if biases else 'no'} | {n} | {told(taken)} | {expected:.1f} s, from {EIGH} "
                f"| {expected / taken.seconds:.1f} |",
                flush=True,
            )


def batches(texts: list[str], model: torch.nn.Module, size: int = 32) -> Iterator[torch.Tensor]:
    """A million tokens of the texts in batches of whole windows."""
    tokenizer, left = bl.load_tokenizer("stories"), TOKENS
    length = model.config.max_position_embeddings
    windows = [
        window
        for path in texts
        for window in document_windows(tokenizer, Path(path).read_text(), length)
        if len(window) == length
    ]
    for start in range(0, len(windows), size):
        ids = torch.tensor(windows[start : start + size])
        yield ids
        left -= ids.numel()
        if left <= 0:
            return
    print(f"(the texts have {TOKENS - left:,} tokens)")


def on_text(texts: list[str]) -> None:
    begun, used = time.perf_counter(), time.process_time()
    model = bl.load_pretrained("stories")
    layers = range(model.config.num_hidden_layers)
    dictionaries = [bl.load_dictionary(f"stories-scope/{layer}-mlp-out") for layer in layers]
    certified = [certify_features(model, dictionary) for dictionary in dictionaries]
    seconds = time.perf_counter() - begun
    high = [torch.full_like(each.high, -torch.inf) for each in certified]
    low = [torch.full_like(each.high, torch.inf) for each in certified]
    fired = [torch.zeros(len(each.high), dtype=torch.bool) for each in certified]
    n_tokens = 0
    sites = [Site(layer, "mlp-out") for layer in layers]
    for seen in site_activations(model, batches(texts, model), sites):
        for layer, dictionary in enumerate(dictionaries):
            x = seen[sites[layer]].flatten(0, 1)
            pre = dictionary.pre_activations(x)
            high[layer] = torch.maximum(high[layer], pre.amax(0))
            low[layer] = torch.minimum(low[layer], pre.amin(0))
            kept = pre.topk(dictionary.k, dim=1)
            fired[layer][kept.indices[kept.values > 0]] = True
        n_tokens += len(x)
    print(
        f"{n_tokens:,} tokens; certified in {seconds:.1f} s, "
        f"with the text {time.perf_counter() - begun:.0f} s ({time.process_time() - used:.0f} s of CPU)\n"
    )
    print("| layer | largest reached / certified: median | best | violations | provably dead | never fired |")
    print("|---|---|---|---|---|---|")
    for layer, each in enumerate(certified):
        share = each.reached(high[layer])
        slack = 1e-5 * (each.high - each.low)
        violations = int(((high[layer] > each.high + slack) | (low[layer] < each.low - slack)).sum())
        print(
            f"| {layer} | {float(share.median()):.3f} | {float(share.max()):.3f} | {violations} "
            f"| {int(each.dead.sum())} | {int((~fired[layer]).sum())} |"
        )


def claims(text: str, layers: Iterable[int]) -> None:
    """Eigenvectors needed for an error of 10% of the largest value at worst, and for a correlation of 0.9."""
    model, tokenizer = bl.load_pretrained("stories"), bl.load_tokenizer("stories")
    folder, _ = bl.shipped_scope("stories")
    windows = document_windows(tokenizer, Path(text).read_text()[:60_000], 256)
    print(
        "| layer | features | 10% at worst | with a constant | R² 0.9 at N(0, 1) | correlation 0.9 on text |"
    )
    print("|---|---|---|---|---|---|")
    for layer in layers:
        dictionary, tensor = bl.load_dictionary(f"{folder}/{layer}-mlp-out"), bl.mlp_tensor(model, layer)
        u = dictionary.encoder.T[:48].contiguous()
        worst = eigenvectors_needed(tensor, u, 0.1)
        free = eigenvectors_needed(tensor, u, 0.1, free_constant=True)
        values = eigendecompose(tensor, u).values.double()
        # 1 − R² of the first k: 2 Σ λ² + (Σ λ)² of the rest, over 2 Σ λ² of all.
        squares, sums = values.square(), values
        rest = 2 * (squares.sum(1, True) - squares.cumsum(1)) + (sums.sum(1, True) - sums.cumsum(1)).square()
        gaussian = (rest > 0.1 * 2 * squares.sum(1, True)).sum(1) + 1
        known = explained_on_text(model, layer, dictionary, windows, list(range(48)), k=tensor.d_in, skip=1)
        correlation = (known.all_tokens < 0.9).sum(1) + 1
        cells = " | ".join(_spread(each) for each in (worst, free, gaussian, correlation))
        print(f"| {layer} | 48 | {cells} |", flush=True)


def _spread(counts: torch.Tensor) -> str:
    values = sorted(counts.tolist())
    return f"{statistics.median(values):g} ({values[0]} to {values[-1]})"


def beside_samples() -> None:
    """Exact Gaussian R² of claims of `stories`, at the mean and covariance of its inputs, beside samples."""
    print("| layer | claim | exact R² | sampled R² | standard errors apart |")
    print("|---|---|---|---|---|")
    model, tokenizer = bl.load_pretrained("stories"), bl.load_tokenizer("stories")
    _, text = bl.shipped_scope("stories")
    ids = torch.tensor(document_windows(tokenizer, Path(text).read_text(), 256)[:32])
    for layer in range(model.config.num_hidden_layers):
        tensor = bl.mlp_tensor(model, layer).to(torch.float64)
        x = mlp_inputs(model, ids, [layer])[0].flatten(0, 1).double()
        mean, cov = x.mean(0), x.T.cov()
        u = bl.load_dictionary(f"stories-scope/{layer}-mlp-out").encoder.T[7].double()
        eigen, narrow = eigendecompose(tensor, u, 8), truncate(tensor, hosvd(tensor, 32), 32)
        matrices = {
            "8 eigenvectors": (eigen.vectors.T * eigen.values) @ eigen.vectors,
            "32 HOSVD directions": narrow.interaction_matrix(u),
        }
        sampled = samples(tensor.interaction_matrix(u), list(matrices.values()), mean, cov, seed=layer)
        for (name, matrix), (r_squared, error) in zip(matrices.items(), sampled, strict=True):
            exact = float(verify(tensor, u, matrix, mean=mean, cov=cov).r_squared)
            apart = abs(exact - r_squared) / error
            print(f"| {layer} | {name} | {exact:.5f} | {r_squared:.5f} | {apart:.2f} |", flush=True)


def samples(
    Q: torch.Tensor, claims: list[torch.Tensor], mean: torch.Tensor, cov: torch.Tensor, seed: int
) -> list[tuple[float, float]]:
    """R² of each claim over samples of z ~ N(mean, cov), and its standard error."""
    generator = torch.Generator().manual_seed(seed)
    values, columns = torch.linalg.eigh(cov)
    root = values.clamp(min=0).sqrt().unsqueeze(1) * columns.mT
    rows = []
    for _ in range(SAMPLES // 20_000):
        z = mean + torch.randn(20_000, len(mean), generator=generator, dtype=torch.float64) @ root
        f, *claimed = (((z @ matrix) * z).sum(-1) for matrix in (Q, *claims))
        rows.append(torch.stack([f, *((f - g).square() for g in claimed)]))
    f, *squares = torch.cat(rows, dim=1)
    spread = (f - f.mean()).square()
    results = []
    for square in squares:
        ratio = float(square.mean() / spread.mean())
        error = float((square - ratio * spread).std() / spread.mean()) / len(f) ** 0.5
        results.append((1 - ratio, error))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--directions", type=int, nargs="*", default=[1, 64, 512])
    parser.add_argument("texts", nargs="*")
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    if given.texts:
        on_text(given.texts)
        print()
        claims(given.texts[0], range(4))
        print()
    beside_ascent()
    print()
    beside_samples()
    print()
    beside_eigh(given.device, given.directions)


if __name__ == "__main__":
    main()
