"""How long commands take to start, beside `import torch`, in processes that alternate.

    python benchmarks/start.py --repeats 7

Times are of a whole process, medians, with the smallest and the largest of the repeats in brackets: on the
wall, and of processors, which tells more where others load the machine. Ratios are of processor time. The
floor of `trace` is `import torch`, a Llama class of transformers, and the 0.2 s of the graph itself.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT = "Lily was sad because her toy was broken. Her mom gave her a big"
GEMMA = "gemma2"
WRITE_GEMMA = """
import sys
from transformers import Gemma2Config, Gemma2ForCausalLM
sizes = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, vocab_size=256)
heads = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16)
model = Gemma2ForCausalLM(Gemma2Config(**sizes, **heads, tie_word_embeddings=False))
model.save_pretrained(sys.argv[1])
"""
"""A small checkpoint of another family."""
OF_TRACE = 0.2
"""Seconds that a graph takes on an idle machine, once everything is loaded."""


def commands(folder: Path) -> dict[str, list[str]]:
    """The timed commands, by name; the first two are what the others stand beside."""
    return {
        "import torch": ["-c", "import torch"],
        "import a Llama class": ["-c", "import torch; from transformers import LlamaForCausalLM"],
        "--help": ["-m", "bilinear_lm", "--help"],
        "finetune --help": ["-m", "bilinear_lm", "finetune", "--help"],
        "info stories": ["-m", "bilinear_lm", "info", "stories"],
        "info of a Gemma 2": ["-m", "bilinear_lm", "info", str(folder / GEMMA)],
        "trace --prompt": [
            "-m",
            "bilinear_lm",
            "trace",
            "--prompt",
            PROMPT,
            "-o",
            str(folder / "graph.json"),
        ],
    }


def seconds(command: list[str], root: Path) -> tuple[float, float]:
    """Seconds of one process of Python on the wall, and of processors."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, used


def told(times: list[float]) -> str:
    """Median, smallest and largest in a cell of a table."""
    return f"{statistics.median(times):.2f} ({min(times):.2f}, {max(times):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=7, help="Processes of each command.")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="Checkout to time.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        timed = commands(Path(folder))
        seconds(["-c", WRITE_GEMMA, str(Path(folder) / GEMMA)], options.root)
        for command in timed.values():  # fills the caches of files and of compiled modules
            seconds(command, options.root)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
        for _ in range(options.repeats):
            for name, command in timed.items():
                taken[name].append(seconds(command, options.root))
    used = {name: statistics.median(processor for _, processor in times) for name, times in taken.items()}
    torch, llama = list(used.values())[:2]
    print("| command | seconds | processor seconds | times torch | times torch, Llama class and 0.2 s |")
    print("|---|---|---|---|---|")
    for name, times in taken.items():
        on_wall, of_processors = ([pair[side] for pair in times] for side in (0, 1))
        print(
            f"| `{name}` | {told(on_wall)} | {told(of_processors)} | {used[name] / torch:.2f} | "
            f"{used[name] / (llama + OF_TRACE):.2f} |"
        )


if __name__ == "__main__":
    main()
