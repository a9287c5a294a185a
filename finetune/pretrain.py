"""Training a bilinear language model, or its SwiGLU twin, from scratch."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed

from bilinear_lm.checkpoints import load_pretrained, load_tokenizer, save_folder
from bilinear_lm.device import DeviceName, find_device
from bilinear_lm.errors import InputError
from bilinear_lm.evaluate import TextLoss, text_loss
from bilinear_lm.files import new_folder, read_json, require_new, write_json
from bilinear_lm.presets import find_preset, new_model
from finetune.data import Windows, documents, tokenize, train_tokenizer


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a training run; a run is repeated exactly by the same settings on the same machine."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the model: a plain Hugging Face checkpoint, its tokenizer, and train.json."""
    data: tuple[str, ...]
    """Text files (documents separated by <|endoftext|>), dataset folders, or names of datasets on the hub."""
    passes: tuple[float, ...] = (1.0,)
    """Passes over the data: one number for all sources, or one each."""
    preset: str = "stories"
    """Shape of the model: stories, stories-1l, ts-medium, fw-small, fw-medium, tinyllama-1.1b."""
    gate: Literal["linear", "silu"] = "linear"
    """linear: a bilinear model; silu: its SwiGLU twin."""
    tokenizer: str | None = None
    """Folder or hub name of a tokenizer to use; by default one is trained on the data."""
    max_tokens: int | None = None
    """At most so many tokens are read from each source; needed for endless datasets."""
    validation: Path | None = None
    """Held-out text file to evaluate the finished model on."""
    batch_size: int = 32
    """Windows a step; a window fills the context."""
    learning_rate: float = 3e-3
    """Peak of a cosine schedule that ends at zero."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.1
    """Decoupled weight decay of AdamW on matrices."""
    seed: int = 0
    """Seeds the weights, the order of the data and the cuts between windows."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the matrix products; weights and optimiser stay in float32."""
    store: Literal["float32", "float16"] = "float32"
    """Precision of the weights on disk."""
    device: DeviceName = "auto"
    """Where to train."""
    checkpoint_steps: int = 500
    """Steps between checkpoints to resume from."""
    resume: bool = False
    """Go on with an interrupted run of the same settings."""

    def __post_init__(self):
        if not self.data:
            raise InputError("no data given; expected at least one text file, dataset folder or dataset name")
        if len(self.passes) not in (1, len(self.data)):
            raise InputError(f"{len(self.passes)} numbers of passes for {len(self.data)} sources; give one or one each")
        if any(count <= 0 for count in self.passes):
            raise InputError(f"passes {self.passes}; expected positive numbers")
        find_preset(self.preset)

    @property
    def passes_by_source(self) -> tuple[float, ...]:
        """One number of passes for each source."""
        return self.passes if len(self.passes) == len(self.data) else self.passes * len(self.data)


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Trains a model and writes it to `config.output`; returns what train.json records.

    While it runs, the tokenizer, the settings and the checkpoints lie in `<output>.run`; that folder
    vanishes when the model is written, and `resume=True` goes on from it after an interruption.
    """
    require_new(config.output)
    run = _open_run(config)
    set_seed(config.seed)
    tokenizer = _tokenizer(config, run)
    preset = find_preset(config.preset)
    windows = _windows(config, tokenizer, preset.n_ctx)
    set_seed(config.seed)
    model = new_model(preset, gate=config.gate, d_vocab=len(tokenizer))
    trainer = Trainer(
        model=model,
        train_dataset=windows,
        args=TrainingArguments(
            output_dir=str(run),
            per_device_train_batch_size=config.batch_size,
            num_train_epochs=1,
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=config.warmup,
            weight_decay=config.weight_decay,
            adam_beta2=0.98,
            bf16=config.precision == "bfloat16",
            use_cpu=find_device(config.device).type == "cpu",
            seed=config.seed,
            logging_steps=50,
            save_steps=config.checkpoint_steps,
            save_total_limit=1,
            report_to="none",
        ),
    )
    trainer.train(resume_from_checkpoint=config.resume and any(run.glob("checkpoint-*")))
    record = {
        "settings": _settings(config),
        "steps": trainer.state.global_step,
        "tokens": len(windows) * (preset.n_ctx - 1),
        "parameters": model.num_parameters(),
        "training_loss": [
            {"step": entry["step"], "nats_per_token": entry["loss"]}
            for entry in trainer.state.log_history
            if "loss" in entry
        ],
    }
    with new_folder(config.output) as folder:
        save_folder(model, tokenizer, folder, store=config.store)
        if config.validation is not None:
            record["validation"] = dataclasses.asdict(_evaluate(folder, config.validation))
        write_json(folder / "train.json", record)
    shutil.rmtree(run)
    return record


def _settings(config: PretrainConfig) -> dict[str, Any]:
    """The settings that decide what the model becomes, as JSON values, without the folders' whereabouts."""
    settings = dataclasses.asdict(config)
    for name in ("output", "resume", "device"):
        del settings[name]
    settings["data"] = [Path(source).name if Path(source).exists() else source for source in config.data]
    settings["validation"] = config.validation and config.validation.name
    return json.loads(json.dumps(settings))


def _open_run(config: PretrainConfig) -> Path:
    """The folder of this run's checkpoints, checked to be new or, on resuming, of the same settings."""
    run = config.output.with_name(config.output.name + ".run")
    if not run.exists():
        if config.resume:
            raise InputError(f"{run}: no interrupted run there; start it without --resume")
        with new_folder(run) as folder:
            write_json(folder / "settings.json", _settings(config))
    elif not config.resume:
        raise InputError(f"{run}: an interrupted run is there; add --resume to go on, or delete it")
    then, now = read_json(run / "settings.json"), _settings(config)
    if changed := [name for name in now if then.get(name) != now[name]]:
        listed = "; ".join(f"{name} was {then.get(name)}, is {now[name]}" for name in changed)
        raise InputError(f"{run}: resumed with other settings ({listed}); give the same ones or start anew")
    return run


def _tokenizer(config: PretrainConfig, run: Path) -> PreTrainedTokenizerBase:
    """The tokenizer asked for, or one trained on the data; kept in the run's folder."""
    folder = run / "tokenizer"
    if not folder.exists():
        if config.tokenizer is not None:
            tokenizer = load_tokenizer(config.tokenizer)
        else:
            texts = (text for source in config.data for text in documents(source))
            tokenizer = train_tokenizer(texts, find_preset(config.preset).d_vocab)
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
            raise InputError(f"{config.tokenizer}: a tokenizer for training needs a first and an end-of-text token")
        with new_folder(folder) as draft:
            tokenizer.save_pretrained(draft)
    return load_tokenizer(folder)


def _windows(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase, context: int) -> Windows:
    streams: list[np.ndarray] = []
    for source in config.data:
        name = Path(source).name
        streams.append(tokenize(documents(source), tokenizer, limit=config.max_tokens, desc=f"tokenize {name}"))
        if len(streams[-1]) < context:
            raise InputError(
                f"{source}: {len(streams[-1])} tokens of text, too short for one window of {context}; give more text"
            )
    return Windows(
        streams, config.passes_by_source, context=context, first=tokenizer.bos_token_id, seed=config.seed
    )


def _evaluate(folder: Path, validation: Path) -> TextLoss:
    """The loss of the model as it lies on disk."""
    text = validation.read_text(encoding="utf-8")
    return text_loss(load_pretrained(folder), load_tokenizer(folder), text, progress=True)
