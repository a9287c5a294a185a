"""`finetune`: a GLU language model becomes a bilinear one by training, or trains on as it is (the baseline).

The run lies in `<output>.run` while it goes on: the model that it starts from, the tokens, checkpoints and
the log. From there it is resumed after an interruption, and there several processes find the same start.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bilinear_lm.checkpoints import load_pretrained, load_tokenizer, save_folder
from bilinear_lm.checkpoints.huggingface import quiet
from bilinear_lm.device import find_device
from bilinear_lm.errors import InputError
from bilinear_lm.evaluate import text_loss
from bilinear_lm.files import new_folder, read_json, read_text, require_finite, require_new, write_json
from bilinear_lm.glu import bilinear_glus, find_glus
from finetune.annealing import anneal_gates, annealed_gates, fold_gates
from finetune.calibration import calibration_windows
from finetune.conversion import convert
from finetune.data import source_name
from finetune.export import require_reloads, require_tokenizer_fits, source_record
from finetune.figure import loss_figure
from finetune.finetune_config import FinetuneConfig
from finetune.linear_norms import anneal_norms, annealed_norms, fold_norms, norm_factors
from finetune.lora import merged, with_lora
from finetune.run_folder import as_json, last_checkpoint, open_run
from finetune.token_files import training_windows, validation_windows
from finetune.trainer import LOG, DistillationTrainer, Linearised, trainer

RECORD = "finetune.json"
START = "start.json"


def finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Runs a finetuning and writes the model to `config.output`; returns what finetune.json records.

    The folder is a plain Hugging Face checkpoint: in the bilinear arm its config says
    `hidden_act="linear"`, and bare transformers load it to the same logits. The source stays as it is.

    Raises InputError for bad settings or data, a model that is bilinear already or is none of gated MLPs,
    a resumed run of other settings, and training that diverges; checkpoints are kept then.
    """
    config.check()
    state = PartialState(cpu=find_device(config.device).type == "cpu")
    require_new(config.output)
    source = load_pretrained(config.model)
    tokenizer = load_tokenizer(config.model)
    config = _with_context(config, source)
    require_tokenizer_fits(tokenizer, source)
    if linear := bilinear_glus(find_glus(source)):
        raise InputError(f"{config.model}: {len(linear)} MLPs are bilinear already; nothing to finetune")
    run = config.output.with_name(config.output.name + ".run")
    with state.main_process_first():
        if state.is_main_process:
            open_run(config.output, _settings(config), config.resume)
            _prepare(config, run, source, tokenizer)
    windows = training_windows(config, run, tokenizer)
    set_seed(config.seed)
    model = _model_in_training(config, run)
    made = trainer(
        config,
        run,
        model,
        source if config.teaches else None,
        windows,
        validation_windows(config, tokenizer),
        [*annealed_gates(model), *annealed_norms(model)],
        use_cpu=state.device.type == "cpu",
    )
    checkpoint = last_checkpoint(run)
    made.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    weights = made.accelerator.get_state_dict(made.model_wrapped)
    record: dict[str, Any] = {}
    if state.is_main_process:
        record = _finish(config, run, weights, tokenizer, made, len(windows))
    state.wait_for_everyone()
    return record


def _settings(config: FinetuneConfig) -> dict[str, Any]:
    """The settings that decide what the model becomes, without the folders' whereabouts."""
    return as_json(
        config,
        leave_out=("output", "resume", "device", "plan", "report_to", "log_steps"),
        model=source_name(config.model),
        data=[source_name(source) for source in config.data],
        validation=config.validation and config.validation.name,
    )


def _with_context(config: FinetuneConfig, model: PreTrainedModel) -> FinetuneConfig:
    most = model.config.max_position_embeddings
    context = config.context or min(most, 2048)
    if not 2 <= context <= most:
        raise InputError(f"a context of {context} tokens; expected 2 to the model's {most}")
    return dataclasses.replace(config, context=context)


def _prepare(
    config: FinetuneConfig, run: Path, source: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Writes the model that training starts from, converted where the settings say so, once."""
    if (run / "start").exists():
        return
    require_finite(dict(source.named_parameters()), config.model)
    model, record = load_pretrained(config.model, device=find_device(config.device)), {}
    windows = None
    if config.converts or config.linearises:
        assert config.context is not None
        windows = calibration_windows(
            tokenizer,
            config.data,
            n_tokens=config.calibration_tokens,
            context=min(config.context, 256),
            first=config.first_token,
            seed=config.seed,
        )
    if config.start != "anneal" and config.converts:
        record["conversion"] = dataclasses.asdict(convert(model, config.start, windows, progress=True))
    if config.linearises and windows is not None:
        record["norm_factors"] = norm_factors(model, windows)
    with new_folder(run / "start") as folder, quiet():
        model.save_pretrained(folder)
        write_json(folder / START, record)


def _model_in_training(config: FinetuneConfig, run: Path) -> nn.Module:
    """The model as it is trained: the start, with whatever is annealed or added."""
    model: Any = load_pretrained(run / "start")
    model.config.use_cache = False
    if config.anneals:
        anneal_gates(model, learnable=config.learnable_gates)
    if config.linearises:
        anneal_norms(model, read_json(run / "start" / START)["norm_factors"])
    return model if config.lora_rank is None else with_lora(model, config.lora_rank, config.seed)


def _finish(
    config: FinetuneConfig,
    run: Path,
    weights: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    made: DistillationTrainer,
    n_windows: int,
) -> dict[str, Any]:
    """Merges, folds, verifies and writes the trained model; returns the record."""
    trained = _model_in_training(config, run)
    trained.load_state_dict(weights)
    model = _folded(trained.eval(), config)
    assert config.context is not None
    record = {
        **source_record(config.model, _settings(config)),
        **read_json(run / "start" / START),
        "steps": made.state.global_step,
        "tokens": n_windows * config.context,
        "log": _log(run),
    }
    model.config.use_cache = True
    with new_folder(config.output) as folder:
        save_folder(model, tokenizer, folder, record={"made_by": "finetune"}, store=config.store)
        record["reload_difference"] = require_reloads(model, folder, config.store)
        if config.validation is not None:
            text = read_text(config.validation)
            saved = load_pretrained(folder, device=find_device(config.device))
            record["validation"] = dataclasses.asdict(text_loss(saved, tokenizer, text, progress=True))
        write_json(folder / RECORD, record)
        shutil.copyfile(run / LOG, folder / LOG)
        loss_figure(record["log"], folder / "loss.png")
    shutil.rmtree(run)
    return record


def _folded(trained: Any, config: FinetuneConfig) -> PreTrainedModel:
    parts: list[Linearised] = [*annealed_gates(trained), *annealed_norms(trained)]
    for part in parts:
        part.linearity = 1.0
    model = trained if config.lora_rank is None else merged(trained)
    if annealed_norms(model):
        fold_norms(model)
    if annealed_gates(model):
        fold_gates(model)
    return model


def _log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / LOG).read_text(encoding="utf-8").splitlines()]
