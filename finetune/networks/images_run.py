"""`bilinear-lm images`: a classifier that is trained or read, and the folder of what is found about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bilinear_lm.device import find_device
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder, require_new, require_writable, told, versions, write_json
from bilinear_lm.images.data import ImageData
from bilinear_lm.networks import ImageClassifier, ImageSettings, load_network, save_network
from finetune.data.image_sources import read_images
from finetune.networks.images import TrainedClassifier, require_for, train_classifier
from finetune.networks.images_config import ImagesConfig

RECORD, CLASSIFIER = "images.json", "classifier"


def run_images(config: ImagesConfig, write_reading: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Trains or loads a classifier, has it read, and writes `config.output`; returns the numbers found.

    `write_reading` is given the classifier, the data and the folder that it writes page and figures into.
    """
    config.check()
    require_new(config.output)
    require_writable(config.output / RECORD)
    device = find_device(config.device)
    data = read_images(config.data, config.selection)
    trained: TrainedClassifier | None = None
    if config.classifier is not None:
        classifier = _saved(config.classifier, data, device)
    else:
        settings = ImageSettings(
            image_shape=data.image_shape,
            n_classes=data.n_classes,
            d_model=config.d_model,
            d_mlp=config.d_mlp,
            kind=config.kind,
            residual=config.residual,
            bias=config.bias,
        )
        trained = train_classifier(data, settings, config.training, device=device)
        classifier = trained.classifier
    with new_folder(config.output) as draft:
        save_network(classifier, draft / CLASSIFIER)
        found = write_reading(
            classifier,
            data,
            draft,
            n_eigenvectors=config.eigenvectors,
            certified=config.certified,
            seed=config.seed,
            training={} if trained is None else _in_words(trained),
        )
        record = {
            "data": told(config.data),
            "classes": list(data.class_names),
            "classifier": None if config.classifier is None else told(config.classifier),
            "settings": asdict(classifier.settings),
            "training": None if trained is None else _record(trained),
            "seed": config.seed,
            "versions": versions(),
        }
        write_json(draft / RECORD, record | found)
    return found


def _saved(folder: Path, data: ImageData, device: torch.device) -> ImageClassifier:
    """A classifier that can be read, for the images of the data."""
    classifier = load_network(folder, device=device, dtype=torch.float32)
    if not isinstance(classifier, ImageClassifier):
        raise InputError(f"{folder}: holds a {type(classifier).__name__}; expected an ImageClassifier")
    try:
        classifier.pixel_tensor()
        require_for(classifier.settings, data)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    return classifier


def _record(trained: TrainedClassifier) -> dict[str, Any]:
    return asdict(trained.training) | {
        "epochs": len(trained.losses),
        "losses": list(trained.losses),
        "accuracies": list(trained.accuracies),
        "seconds": trained.seconds,
    }


def _in_words(trained: TrainedClassifier) -> dict[str, str]:
    """The training as a page tells it."""
    training, settings = trained.training, trained.classifier.settings
    deviation = training.deviation(settings.n_pixels)
    return {
        "epochs": f"{len(trained.losses)} of batches of {training.batch_size}",
        "step size": f"AdamW, {training.learning_rate:g} at first, falling to 0 along a cosine",
        "weight decay": f"{training.weight_decay:g}",
        "noise": f"{deviation:.3g} a pixel, {deviation * settings.n_pixels**0.5:.3g} an image",
        "loss at the end": f"{trained.losses[-1]:.4f} nats on noisy training images",
        "seed": f"{training.seed}",
        "time": f"{trained.seconds:.0f} seconds",
    }
