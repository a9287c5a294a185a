"""How long commands take to start, beside `import torch`, in processes that alternate.

    python benchmarks/start.py --repeats 7

Times are of a whole process, the smallest and the largest of the repeats in brackets. The floor of `trace` is
`import torch`, a Llama class of transformers, and the 0.2 s of the graph itself.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT = "Lily was sad because her toy was broken. Her mom gave her a big"
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


def seconds(command: list[str], root: Path) -> float:
    """Wall-clock seconds of one process of Python."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=7, help="Processes of each command.")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="Checkout to time.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        timed = commands(Path(folder))
        for command in timed.values():  # fills the caches of files and of compiled modules
            seconds(command, options.root)
        taken: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(options.repeats):
            for name, command in timed.items():
                taken[name].append(seconds(command, options.root))
    torch, llama = (statistics.median(taken[name]) for name in list(timed)[:2])
    print("| command | seconds (smallest, largest) | times torch | times torch, Llama class and 0.2 s |")
    print("|---|---|---|---|")
    for name, times in taken.items():
        median = statistics.median(times)
        print(
            f"| `{name}` | {median:.2f} ({min(times):.2f}, {max(times):.2f}) | {median / torch:.2f} | "
            f"{median / (llama + OF_TRACE):.2f} |"
        )


if __name__ == "__main__":
    main()
