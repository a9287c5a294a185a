"""`bilinear-lm info`, `export` and `generate`: what a checkpoint is, its plain form, and what it writes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from bilinear_lm.checks import require_seed
from bilinear_lm.commands.arguments import DEFAULT_MODEL, Checkpoint, Output
from bilinear_lm.device import DeviceName, find_device
from bilinear_lm.files import require_writable, write_text


def info(checkpoint: Checkpoint, /, as_json: Annotated[bool, tyro.conf.arg(name="json")] = False) -> None:
    """Tell a checkpoint's format, shape, gate and parameters, and whether it is bilinear.

    Args:
        checkpoint: Folder, llama2.c file, hub repository, or name of a shipped model.
        as_json: Print one JSON object.
    """
    from bilinear_lm.checkpoints import checkpoint_info

    facts = dataclasses.asdict(checkpoint_info(checkpoint))
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        notes = facts.pop("notes")
        width = max(map(len, facts))
        for name, value in facts.items():
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
    temperature: float | None = None,
    checkpoint_settings: bool = False,
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
        temperature: 1 samples from the model, as by default, 0 takes the likeliest token each time.
        checkpoint_settings: Follow the checkpoint's generation_config.json (penalties, cut-offs, beams,
            lengths) where the options here say nothing else; otherwise only its end-of-text tokens are used.
        seed: Seeds the sampling.
        output: Text file to write, documents separated by <|endoftext|>; printed by default.
        device: Where to compute.
    """
    from tqdm.auto import tqdm

    from bilinear_lm.checkpoints import load_pretrained, load_tokenizer
    from bilinear_lm.text.generate import sample

    require_seed(seed)
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
        checkpoint_settings=checkpoint_settings,
    )
    if output is None:
        print("\n\n".join(texts))
    else:
        documents = (text.strip() for text in tqdm(texts, total=count, desc="sample"))
        write_text(output, "".join(f"{text}\n<|endoftext|>\n" for text in documents))
