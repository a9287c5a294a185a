"""Image classifiers of one bilinear layer: accuracy, rank of the class matrices, and the layers beside them.

    OMP_NUM_THREADS=1 python benchmarks/images.py train [--seeds 5] [--arms regularised no-decay]
    python benchmarks/images.py table

`train` adds a JSON line a run to the file of runs, and leaves out runs that are there: it can be cut off and
gone on with. `table` prints accuracy on the 10,000 test images and the effective rank (‖λ‖₁ / ‖λ‖₂)² of the
class matrices, mean over classes, in the embedding's space and in pixels; cells are means over seeds with the
range. The null control of a rank is the classifier as it is drawn, before training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from analysis.spectra.eigen import effective_rank, eigendecompose
from bilinear_lm.images.data import ImageData
from bilinear_lm.images.idx import read_idx_folder
from bilinear_lm.networks import ImageClassifier, ImageSettings, save_network
from bilinear_lm.networks.image import Kind
from finetune.networks.images import ImageTraining, accuracy, train_classifier

IMAGES = Path(__file__).parents[2] / "shared" / "data"

OURS, PLAIN = ImageTraining(), ImageSettings()
SHORT = replace(OURS, epochs=10)
KINDS: tuple[Kind, ...] = ("bilinear", "relu", "square", "reglu", "swiglu")
ARMS: dict[str, tuple[str, ImageSettings, ImageTraining]] = {
    "regularised": ("mnist", PLAIN, OURS),
    "unregularised": ("mnist", PLAIN, replace(OURS, noise=0.0, weight_decay=0.0)),
    "no-decay": ("mnist", PLAIN, replace(OURS, weight_decay=0.0)),
    "no-noise": ("mnist", PLAIN, replace(OURS, noise=0.0)),
    "batch-2048-norm-0.5": ("mnist", PLAIN, replace(OURS, batch_size=2048, noise_norm=0.5)),
    "three-layer": ("mnist", replace(PLAIN, n_layers=3), SHORT),
    **{f"{kind}-10": ("mnist", replace(PLAIN, kind=kind), SHORT) for kind in KINDS},
    **{f"fashion-{kind}-10": ("fashion-mnist", replace(PLAIN, kind=kind), SHORT) for kind in KINDS[:2]},
}
"""By name: the data, the classifier, and its training, of 20 epochs or where the name says so of 10."""

WITH_TENSOR = ("bilinear", "square")


def ranks(classifier: ImageClassifier) -> dict[str, float]:
    """Mean effective rank of the class matrices in the embedding's space and in pixels; {} without them."""
    if classifier.settings.kind not in WITH_TENSOR or classifier.settings.n_layers > 1:
        return {}
    classes = torch.eye(classifier.settings.n_classes)
    embedded = classifier.tensor().change_basis(outputs=classifier.W_head.detach().T.contiguous())
    spectra = {"embedding": embedded, "pixels": classifier.pixel_tensor()}
    return {
        name: float(effective_rank(eigendecompose(tensor, classes).values).mean())
        for name, tensor in spectra.items()
    }


def run(arm: str, seed: int, data: ImageData, folder: Path | None) -> dict[str, Any]:
    """Trains one classifier, saves it, and returns its record."""
    _, settings, training = ARMS[arm]
    trained = train_classifier(data, settings, replace(training, seed=seed), progress=False)
    if folder is not None:
        save_network(trained.classifier, folder / f"{arm}-{seed}")
    torch.manual_seed(seed)
    untrained = ImageClassifier(settings)
    return {
        "arm": arm,
        "seed": seed,
        "accuracy": trained.accuracy,
        "accuracies": trained.accuracies,
        "losses": trained.losses,
        "seconds": trained.seconds,
        "ranks": ranks(trained.classifier),
        "untrained": {"accuracy": accuracy(untrained, *data.test()), "ranks": ranks(untrained)},
        "settings": asdict(settings) | asdict(trained.training),
        "versions": trained.versions,
    }


def train(arms: Iterable[str], seeds: int, runs: Path, folder: Path | None) -> None:
    done = {(each["arm"], each["seed"]) for each in read(runs)}
    for arm in arms:
        data = read_idx_folder(IMAGES / ARMS[arm][0])
        for seed in range(seeds):
            if (arm, seed) in done:
                continue
            record = run(arm, seed, data, folder)
            with runs.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{arm}, seed {seed}: {record['accuracy']:.4f} in {record['seconds']:.0f} s", flush=True)


def read(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in runs.read_text().splitlines()] if runs.is_file() else []


def cell(values: list[float], digits: int) -> str:
    if not values:
        return ""
    low, mean, high = min(values), sum(values) / len(values), max(values)
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table(records: list[dict[str, Any]]) -> None:
    columns = ("classifier", "seeds", "accuracy", "rank, embedding", "rank, pixels", "before training", "s")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for arm in ARMS:
        of_it = [each for each in records if each["arm"] == arm]
        if of_it:
            ranked = [each for each in of_it if each["ranks"]]
            cells = [
                arm,
                str(len(of_it)),
                cell([each["accuracy"] for each in of_it], 4),
                cell([each["ranks"]["embedding"] for each in ranked], 1),
                cell([each["ranks"]["pixels"] for each in ranked], 1),
                cell([each["untrained"]["ranks"]["embedding"] for each in ranked], 1),
                cell([each["seconds"] for each in of_it], 0),
            ]
            print(f"| {' | '.join(cells)} |")


def main(arguments: argparse.Namespace) -> None:
    if arguments.what == "train":
        train(arguments.arms, arguments.seeds, arguments.runs, arguments.classifiers)
    table(read(arguments.runs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "table"))
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=tuple(ARMS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("images-runs.jsonl"), help="file of runs")
    parser.add_argument("--classifiers", type=Path, default=None, help="folder to save classifiers in")
    main(parser.parse_args())
