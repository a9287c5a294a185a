"""Commands that make models: `bilinear-lm train`, `dictionaries`, `convert`, `finetune`, `edit`, `images`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from finetune.dictionaries.config import DictionaryConfig
from finetune.editing.config import EditConfig
from finetune.finetuning.config import ConvertConfig, FinetuneConfig
from finetune.networks.images_config import ImagesConfig
from finetune.networks.policy_config import PolicyConfig
from finetune.pretraining.config import PretrainConfig


def train(config: tyro.conf.OmitArgPrefixes[PretrainConfig]) -> None:
    """Train a bilinear language model, its SwiGLU twin, or one without gates, from scratch."""
    from finetune.pretraining.pretrain import pretrain

    _print_result(pretrain(config), config.output)


def dictionaries(config: tyro.conf.OmitArgPrefixes[DictionaryConfig]) -> None:
    """Train dictionaries (sparse autoencoders) of a model's activations.

    Under torchrun the first process trains them, and all share the measuring.
    """
    from finetune.dictionaries.train import train_dictionaries

    records = train_dictionaries(config)
    if not records:  # another process of several tells them
        return
    print(f"{'site':<14}{'variance explained':>20}{'loss recovered':>16}{'dead':>7}")
    for site, record in records.items():
        measured = record["fidelity"]
        recovered = "-" if measured["loss_recovered"] is None else f"{measured['loss_recovered']:.3f}"
        print(
            f"{site!s:<14}{measured['variance_explained']:>20.3f}{recovered:>16}"
            f"{measured['dead_features']:>7}"
        )
    print(config.output)


def convert(config: tyro.conf.OmitArgPrefixes[ConvertConfig]) -> None:
    """Make a gated language model bilinear, without training it end to end."""
    from finetune.conversion.checkpoint import convert_checkpoint

    done = convert_checkpoint(config)
    for layer in done.layers:
        lost = ""
        if layer.r_squared_with_biases is not None:
            lost = f"  ({layer.r_squared_with_biases:.4f} with biases)"
        if layer.r_squared is not None:
            print(f"{layer.name:<28} R² {layer.r_squared:8.4f}{lost}")
    if done.loss_before is not None and done.loss_after is not None:
        print(f"loss {done.loss_before:.4f} before, {done.loss_after:.4f} after, in nats per held-out token")
    print(config.output)


def finetune(config: tyro.conf.OmitArgPrefixes[FinetuneConfig]) -> None:
    """Train a gated language model into a bilinear one, or train on as it is for comparison."""
    if config.plan:
        from finetune.finetuning.plan import plan

        print(plan(config))
        return
    from finetune.finetuning.finetune import finetune as run

    record = run(config)
    if record:  # else another process of several writes the model
        _print_result(record, config.output)


def edit(config: tyro.conf.OmitArgPrefixes[EditConfig]) -> None:
    """Delete, scale or insert interactions of a bilinear model, with what that changes at most."""
    from finetune.editing.checkpoint import edit_checkpoint

    report = edit_checkpoint(config)
    for each in report.interactions:
        print(
            f"{each.name:<20} {each.before:+.6g} → {each.after:+.6g}, moves its output by {each.low:+.4g} to "
            f"{each.high:+.4g} at most"
        )
    for layer in report.layers:
        print(
            f"layer {layer.layer}: {layer.n_units} hidden units, moves the output by {layer.high:.4g} at most"
        )
    if not report.bounded:
        print("no norm bounds what the MLPs read: the bounds are for inputs of length √d and less")
    print(config.output)


def images_command(write_reading: Callable[..., dict[str, Any]]) -> Callable[[ImagesConfig], None]:
    """The command `images`, with what reads a classifier and writes what was found into a folder."""

    def images(config: tyro.conf.OmitArgPrefixes[ImagesConfig]) -> None:
        """Train a bilinear classifier of images, or read one, and show what it computes on a page."""
        from finetune.networks.images_run import run_images

        record = run_images(config, write_reading)
        ranks = record["effective_rank"]
        print(
            f"accuracy {record['accuracy']:.4f} on {record['n_test']:,} test images; effective rank of a "
            f"class {sum(ranks) / len(ranks):.1f}"
        )
        print(config.output)

    return images


def policy_train(config: tyro.conf.OmitArgPrefixes[PolicyConfig]) -> None:
    """Train a policy by PPO on mazes in which a mouse looks for cheese."""
    from finetune.networks.policy import train_policy

    record = train_policy(config)
    unseen = record["unseen_levels"]
    print(
        f"return {unseen['sampled']['return']:.2f} on {unseen['levels']} unseen levels, "
        f"{unseen['random']['return']:.2f} by chance"
    )
    print(config.output)


def _print_result(record: dict[str, Any], output: Path) -> None:
    if "validation" in record:
        loss = record["validation"]
        print(f"{loss['nats_per_token']:.4f} nats per token, {loss['bits_per_byte']:.4f} bits per byte")
    print(output)
