"""Time of work by feature in one process and in two that share it, one thread each.

    python benchmarks/processes.py [--repeats 3] [--d-model 128] [--features 384]

A random layer between random dictionaries, and `stories` with its own. Each row is timed in a group of one
process and in a group of two, from a start that all share to the end of the last. The first row is what the
machine itself allows: plain matrix products that share nothing but the machine. Beside other work, and on
shared caches and memory, it does not reach 2 either.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import torch

from analysis import (
    certify,
    eigendecompose_to_folder,
    interaction_index,
    interaction_statistics,
    trace_prompts,
)
from analysis.features import FeatureLayer, split_strongest_interactions
from bilinear_lm import BilinearTensor, load_dictionary, load_pretrained, load_tokenizer
from bilinear_lm.distributed import divided, process_group, together
from finetune.dictionaries.fidelity import measure_fidelity

PROMPTS = [f"Once upon a time {name} had a big" for name in ("Tom", "Lily", "Ben", "Sue")]


def layer(d_model: int, n_features: int) -> FeatureLayer:
    """A random layer of four times as many hidden units."""
    torch.manual_seed(0)
    d_mlp = 4 * d_model
    gate, up, out = torch.randn(d_model, d_mlp), torch.randn(d_model, d_mlp), torch.randn(d_mlp, d_model)
    ends = torch.randn(n_features, d_model), torch.randn(n_features, d_model)
    return FeatureLayer(BilinearTensor(gate, up, out), *ends)


def works(features: FeatureLayer, folder: Path) -> dict[str, Callable[[], object]]:
    """The calls that are timed, by name; each does all of its work anew."""
    tensor, u = features.tensor, features.outputs
    square = torch.randn(600, 600)
    model, tokenizer = load_pretrained("stories"), load_tokenizer("stories")
    scope = [load_dictionary(f"stories-scope/1-{site}") for site in ("mlp-in", "mlp-out")]
    windows = torch.randint(model.config.vocab_size, (32, model.config.max_position_embeddings))

    def ranges(some: range) -> torch.Tensor:
        return certify(tensor, u[some.start : some.stop]).high

    def products(some: range) -> torch.Tensor:
        return torch.stack([torch.linalg.matrix_norm(square @ square @ square) for _ in some])

    return {
        "plain products, nothing shared": lambda: divided(range(100), products),
        "`eigen`, 8 eigenpairs": lambda: eigendecompose_to_folder(tensor, u, folder, 8, part_size=32),
        "strongest interactions": lambda: split_strongest_interactions(features, k=50),
        "`interaction_index`": lambda: interaction_index(features),
        "statistics of interactions": lambda: interaction_statistics(features),
        "`certify`": lambda: divided(range(len(u)), ranges, at_once=32),
        "a dictionary of `stories` measured": lambda: measure_fidelity(model, scope[1], windows.split(4)),
        "`trace_prompts`, 4 prompts": lambda: trace_prompts(model, tokenizer, PROMPTS, dictionaries=scope),
    }


def run(rank: int, world: int, port: int, folder: str, sizes: tuple[int, int], repeats: int, seconds: object):
    """One process of a group; the first puts the seconds of each work, [name][repeat], into a queue."""
    torch.set_num_threads(1)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "benchmark"}
    os.environ |= meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    taken: dict[str, list[float]] = {}
    with process_group(torch.device("cpu")):
        features = layer(*sizes)
        for repeat in range(repeats + 1):
            for name, work in works(features, Path(folder) / f"{world}-{repeat}").items():
                with together():
                    pass
                start = time.perf_counter()
                work()
                with together():
                    pass
                if repeat:  # the first warms up
                    taken.setdefault(name, []).append(time.perf_counter() - start)
    if not rank:
        seconds.put(taken)


def timed(world: int, port: int, sizes: tuple[int, int], repeats: int) -> dict[str, list[float]]:
    """Seconds of each work in a group of so many processes."""
    context = multiprocessing.get_context("spawn")
    seconds = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        given = (world, port, folder, sizes, repeats, seconds)
        processes = [context.Process(target=run, args=(rank, *given)) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a process failed; its message stands above")
    return seconds.get()


def told(seconds: list[float]) -> str:
    return f"{mean(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--port", type=int, default=29517)
    given = parser.parse_args()
    sizes = given.d_model, given.features
    load = os.getloadavg()[0]
    one, two = (timed(world, given.port + world, sizes, given.repeats) for world in (1, 2))
    print(f"{os.cpu_count()} cores, load {load:.1f} before, 1 thread a process, torch {torch.__version__},")
    print(
        f"d_model {sizes[0]}, {sizes[1]} features a side, {given.repeats} repetitions: mean (least to most)\n"
    )
    print("| work | s in 1 process | s in 2 processes | ratio of the least |\n| --- | --- | --- | --- |")
    for name in one:
        ratio = min(one[name]) / min(two[name])
        print(f"| {name} | {told(one[name])} | {told(two[name])} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
