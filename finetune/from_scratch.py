"""Training a bilinear language model, or its SwiGLU twin, from scratch."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed

from bilinear_lm.checkpoints import load_pretrained, load_tokenizer, save_folder
from bilinear_lm.device import find_device
from bilinear_lm.errors import InputError
from bilinear_lm.evaluate import TextLoss, text_loss
from bilinear_lm.files import new_folder, require_new, write_json
from bilinear_lm.presets import find_preset, new_model
from bilinear_lm.text_files import read_plain_text
from finetune.config import PretrainConfig
from finetune.data import Windows, require_window, tokenize_source, train_tokenizer
from finetune.run_folder import as_json, last_checkpoint, open_run
from finetune.sources import documents


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Trains a model and writes it to `config.output`; returns what train.json records.

    While it runs, the tokenizer, the settings and the checkpoints lie in `<output>.run`; that folder
    vanishes when the model is written, and `resume=True` goes on from it after an interruption.
    """
    config.check()
    require_new(config.output)
    run = open_run(config.output, _settings(config), config.resume)
    tokenizer = _tokenizer(config, run)
    preset = find_preset(config.preset)
    windows = _windows(config, tokenizer, preset.n_ctx)
    set_seed(config.seed)
    model = new_model(preset, gate=config.gate, d_vocab=len(tokenizer))
    for settings in (model.config, model.generation_config):
        settings.bos_token_id, settings.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
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
    checkpoint = last_checkpoint(run)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
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
    model.config.use_cache = True  # switched off by the Trainer
    with new_folder(config.output) as folder:
        save_folder(model, tokenizer, folder, store=config.store)
        if config.validation is not None:
            record["validation"] = dataclasses.asdict(_evaluate(folder, config.validation))
        write_json(folder / "train.json", record)
    shutil.rmtree(run)
    return record


def _settings(config: PretrainConfig) -> dict[str, Any]:
    """The settings that decide what the model becomes, without the folders' whereabouts."""
    return as_json(config, leave_out=("output", "resume", "device"))


def _tokenizer(config: PretrainConfig, run: Path) -> PreTrainedTokenizerBase:
    """The tokenizer asked for, or one trained on the data; kept in the run's folder."""
    folder = run / "tokenizer"
    if not folder.exists():
        if config.tokenizer is not None:
            tokenizer = load_tokenizer(config.tokenizer)
        else:
            texts = (text for source in config.data for text in documents(source, config.selection))
            tokenizer = train_tokenizer(texts, find_preset(config.preset).d_vocab)
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
            raise InputError(
                f"{config.tokenizer}: a tokenizer for training needs a first and an end-of-text token"
            )
        with new_folder(folder) as draft:
            tokenizer.save_pretrained(draft)
    return load_tokenizer(folder)


def _windows(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase, context: int) -> Windows:
    streams = []
    for source in config.data:
        stream = tokenize_source(source, tokenizer, limit=config.max_tokens, selection=config.selection)
        streams.append(stream)
        require_window(source, streams[-1], context)
    windows = Windows(
        streams, config.passes_by_source, context=context, first=tokenizer.bos_token_id, seed=config.seed
    )
    if not len(windows):
        passes = ", ".join(map(str, config.passes_by_source))
        raise InputError(
            f"no window of {context} tokens in {passes} passes; expected one or more, give more text"
        )
    return windows


def _evaluate(folder: Path, validation: Path) -> TextLoss:
    """The loss of the model as it lies on disk."""
    text = read_plain_text(validation)
    return text_loss(load_pretrained(folder), load_tokenizer(folder), text, progress=True)
