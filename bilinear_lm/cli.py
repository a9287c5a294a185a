"""The command line: one typed function a command. Bad input ends in one line and exit status 2."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from bilinear_lm.device import DeviceName, find_device
from bilinear_lm.errors import InputError
from bilinear_lm.files import read_text, require_writable, write_text
from finetune.config import PretrainConfig

Checkpoint = Annotated[str, tyro.conf.Positional]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]

DEFAULT_MODEL = "stories"


def report(
    checkpoint: Checkpoint = DEFAULT_MODEL,
    /,
    output: Output = Path("report.html"),
    tokens: tuple[str, ...] = (),
    layers: tuple[int, ...] = (),
    directions: int = 3,
    eigenvectors: int = 2,
    text: str | None = None,
    validation: Path | None = None,
    device: DeviceName = "auto",
    seed: int = 0,
) -> None:
    """Write one self-contained page about what the MLPs of a bilinear language model compute.

    Args:
        checkpoint: Folder, hub repository, or name of a shipped model.
        output: The page to write.
        tokens: Output directions to show beside the strongest ones: "swim" (a token against the mean of
            all), or "swim - run, climb" (against the mean of others).
        layers: Layers to show; all of them by default.
        directions: How many of the strongest output directions to show for each layer.
        eigenvectors: How many eigenvectors to show for each direction.
        text: Short text to show where eigenvectors fire; a small story by default.
        validation: Text file to measure the loss on; the text above by default.
        device: Where to compute.
        seed: Seeds the sampled text.
    """
    from analysis.report import ReportOptions
    from analysis.report import report as render
    from analysis.report_options import STORY
    from bilinear_lm.checkpoints import load_pretrained, load_tokenizer

    require_writable(output)
    options = ReportOptions(
        tokens=tokens,
        layers=layers,
        n_directions=directions,
        n_eigenvectors=eigenvectors,
        evaluation_text=None if validation is None else read_text(validation),
        seed=seed,
        text=STORY if text is None else text,
    )
    model = load_pretrained(checkpoint, device=find_device(device))
    write_text(output, render(model, load_tokenizer(checkpoint), Path(checkpoint).name, options))
    print(output)


def info(checkpoint: Checkpoint, /, as_json: Annotated[bool, tyro.conf.arg(name="json")] = False) -> None:
    """Tell a checkpoint's format, shape, gate and parameters, and whether it is bilinear.

    Args:
        checkpoint: Folder, llama2.c file, hub repository, or name of a shipped model.
        as_json: Print one JSON object.
    """
    from bilinear_lm.checkpoints import checkpoint_info

    found = dataclasses.asdict(checkpoint_info(checkpoint))
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        notes = found.pop("notes")
        width = max(map(len, found))
        for name, value in found.items():
            print(f"{name:<{width}}  {f'{value:,}' if type(value) is int else value}")
        for note in notes:
            print(note)


def export(checkpoint: Checkpoint, /, output: Output, attention_scale: bool | None = None) -> None:
    """Write a published checkpoint as a plain Hugging Face folder that loads anywhere.

    Args:
        checkpoint: Folder, llama2.c file, hub repository, or name of a shipped model.
        output: New folder for the model, its tokenizer and a record of where it came from.
        attention_scale: Override whether the attention branch of a published checkpoint is scaled by
            1/sqrt(2 n_layers), where its config leaves that open.
    """
    from bilinear_lm.checkpoints import export as export_checkpoint

    export_checkpoint(checkpoint, output, attention_scale=attention_scale)
    print(output)


def generate(
    checkpoint: Checkpoint = DEFAULT_MODEL,
    /,
    prompt: str = "",
    count: int = 1,
    max_tokens: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    device: DeviceName = "auto",
) -> None:
    """Sample text from a language model.

    Args:
        checkpoint: Folder, llama2.c file, hub repository, or name of a shipped model.
        prompt: Text to continue; by default the model starts by itself.
        count: How many texts.
        max_tokens: At most so many new tokens; by default as many as the context holds.
        temperature: 1 samples from the model, 0 takes the likeliest token each time.
        seed: Seeds the sampling.
        output: Text file to write, documents separated by <|endoftext|>; printed by default.
        device: Where to compute.
    """
    from tqdm.auto import tqdm

    from bilinear_lm.checkpoints import load_pretrained, load_tokenizer
    from bilinear_lm.generate import sample

    if output is not None:
        require_writable(output)
    model = load_pretrained(checkpoint, device=find_device(device))
    texts = sample(
        model,
        load_tokenizer(checkpoint),
        prompt,
        count=count,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
    )
    if output is None:
        print("\n\n".join(texts))
    else:
        documents = (text.strip() for text in tqdm(texts, total=count, desc="sample"))
        write_text(output, "".join(f"{text}\n<|endoftext|>\n" for text in documents))


def train(config: tyro.conf.OmitArgPrefixes[PretrainConfig]) -> None:
    """Train a bilinear language model, or its SwiGLU twin, from scratch."""
    from finetune.from_scratch import pretrain

    record = pretrain(config)
    if "validation" in record:
        loss = record["validation"]
        print(f"{loss['nats_per_token']:.4f} nats per token, {loss['bits_per_byte']:.4f} bits per byte")
    print(config.output)


COMMANDS: dict[str, Callable[..., Any]] = {
    command.__name__: command for command in (report, info, export, generate, train)
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="bilinear-lm",
            description="Bilinear language models, read from their weights.",
            args=arguments,
        )
    except InputError as error:
        print(f"bilinear-lm: {error}", file=sys.stderr)
        return 2
    return 0
