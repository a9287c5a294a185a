"""`finetune`: a GLU language model becomes a bilinear one by training, or trains on as it is (the baseline).

The run lies in `<output>.run` while it goes on: the model that it starts from, the tokens, checkpoints and
the log. From there it is resumed after an interruption, and there several processes find the same start.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import disable_fsdp_ram_efficient_loading, parse_flag_from_env
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bilinear_lm.arguments import checked
from bilinear_lm.checkpoints.huggingface import quiet
from bilinear_lm.checkpoints.load import load_pretrained
from bilinear_lm.checkpoints.save import save_folder
from bilinear_lm.checkpoints.tokenizer import load_tokenizer
from bilinear_lm.device import find_device
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder, read_json, require_new, write_json
from bilinear_lm.glus import bilinear_glus, find_glus
from bilinear_lm.text.evaluate import text_loss
from bilinear_lm.text.files import read_plain_text
from finetune.conversion.convert import convert
from finetune.conversion.glu_fit import FitSettings
from finetune.conversion.linear_norms import anneal_norms, annealed_norms, fold_norms, norm_factors
from finetune.conversion.verification import require_reloads, require_tokenizer_fits
from finetune.data.token_files import start_windows, token_streams, training_windows, validation_windows
from finetune.finetuning.annealing import anneal_gates, annealed_gates, fold_gates
from finetune.finetuning.config import FinetuneConfig
from finetune.finetuning.lora import merged, with_lora
from finetune.finetuning.trainer import require_trackers, trainer
from finetune.pretraining.model_config import require_linear_config
from finetune.runs.figure import loss_figure
from finetune.runs.folder import as_json, finishing, is_finished, open_run, preparing, training, writing
from finetune.runs.log import LOG, Linearised, read_log
from finetune.runs.manifest import require_undamaged, write_manifest
from finetune.runs.trainer import agreed, whole_steps

RECORD = "finetune.json"

START = "start.json"

_PATIENCE = timedelta(hours=24)
"""Time that other processes wait for the first one to convert, to tokenize and to write."""

_MAKE_ROOM = "nothing is lost: make room and go on with --resume"


@checked
def finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Runs a finetuning and writes the model to `config.output`; returns what finetune.json records.

    The folder is a plain Hugging Face checkpoint: in the bilinear arm its config says
    `hidden_act="linear"`, and bare transformers load it to the same logits. The source stays as it is.

    Raises InputError for bad settings or data, a model that is bilinear already or has no gated MLPs,
    a resumed run of other settings, and training that diverges; checkpoints are kept then.
    """
    config.check()
    require_trackers(config.report_to)
    if not config.resume:
        require_new(config.output)
    state = PartialState(cpu=find_device(config.device).type == "cpu", timeout=_PATIENCE)
    disable_fsdp_ram_efficient_loading()  # each process has a teacher, with weights
    tokenizer = load_tokenizer(config.model)
    source = load_pretrained(config.model)
    config = _checked(config, source, tokenizer)
    if agreed(is_finished, config.output, _settings(config), config.resume, RECORD):
        return read_json(config.output / RECORD) if state.is_main_process else {}
    with preparing(config.output, state.is_main_process) as run:
        windows, validation = _prepared(config, run, source, tokenizer)
    teacher = source if config.teaches else None
    del source  # a model that is not needed takes no memory while another is trained or written
    with training(run, state.is_main_process):
        trained = _train(config, run, windows, validation, teacher)
    del teacher
    gc.collect()  # the optimizer, which the Trainer's cycles hold
    record: dict[str, Any] = {}
    if state.is_main_process:
        record = _finish(config, run, trained, tokenizer)
    state.wait_for_everyone()
    return record


def _settings(config: FinetuneConfig) -> dict[str, Any]:
    """The settings that decide what the model becomes, without the folders' whereabouts."""
    return as_json(
        config,
        leave_out=("output", "resume", "device", "plan", "report_to", "log_steps"),
        processes=PartialState().num_processes,
        sharded=parse_flag_from_env("ACCELERATE_USE_FSDP"),  # which checkpoints depend on
    )


def _checked(
    config: FinetuneConfig, source: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> FinetuneConfig:
    """The settings with the context filled in; raises InputError where they do not fit the model."""
    config = config.with_context(source.config.max_position_embeddings)
    require_tokenizer_fits(tokenizer, source)
    glus = find_glus(source)
    if linear := bilinear_glus(glus):
        raise InputError(f"{config.model}: {len(linear)} MLPs are bilinear already; nothing to finetune")
    if config.arm == "bilinear":
        require_linear_config(source, glus)
    if config.validation is not None and tokenizer.bos_token_id is None:
        raise InputError(
            f"{config.model}: its tokenizer has no beginning-of-sequence token, with which a validation "
            "text is evaluated; leave the validation out"
        )
    return config


def _prepared(
    config: FinetuneConfig, run: Path, source: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[Dataset, Int[Tensor, "window pos"] | None]:
    """The windows to train on and those to validate on; afterwards the start is in the run's folder.

    Windows to train on fill whole steps. Where the source does not teach, it becomes the start.
    """
    state = PartialState()
    validation = validation_windows(config, tokenizer)
    if state.is_main_process:
        open_run(config.output, _settings(config), config.resume)
    for part in ("tokens", "start"):  # of a run that is resumed
        if state.is_main_process and (run / part).exists():
            require_undamaged(run / part)
    streams = token_streams(config, run, tokenizer)
    windows = training_windows(config, streams, tokenizer)
    step = config.batch_size * config.accumulation * state.num_processes
    if len(windows) < step:
        raise InputError(
            f"{len(windows)} windows of {config.window} tokens to train on; expected at least the {step} of "
            "one step: give more text or tokens, or a smaller batch"
        )
    with state.main_process_first():
        if state.is_main_process and not (run / "start").exists():
            stays = config.teaches and config.calibrates
            model = copy.deepcopy(source) if stays else source  # the start is made in place
            _write_start(config, run, model, start_windows(config, streams, tokenizer))
    return whole_steps(windows, step, config.seed), validation


def _write_start(
    config: FinetuneConfig, run: Path, model: PreTrainedModel, windows: Int[Tensor, "window pos"] | None
) -> None:
    """Writes the model that training starts from, converted in place where the settings say so."""
    record: dict[str, Any] = {}
    if windows is not None:
        # transformers wraps `to` in a way that hides its signature.
        model.to(find_device(config.device))  # type: ignore[arg-type]
        if config.conversion is not None:
            fit = FitSettings(seed=config.seed)
            done = convert(model, config.conversion, windows, fit=fit, progress=True)
            record["conversion"] = dataclasses.asdict(done)
        if config.linearises:
            record["norm_factors"] = norm_factors(model, windows)
    with new_folder(run / "start") as folder, writing(run / "start", "make room and run again"), quiet():
        model.save_pretrained(folder)
        write_json(folder / START, record)
        write_manifest(folder)


def _model_in_training(config: FinetuneConfig, run: Path) -> nn.Module:
    """The model as it is trained: the start, with the parts that are annealed or added."""
    model: Any = load_pretrained(run / "start")
    model.config.use_cache = False
    if config.anneals:
        anneal_gates(model, learnable=config.learnable_gates)
    if config.linearises:
        anneal_norms(model, read_json(run / "start" / START)["norm_factors"])
    return model if config.lora_rank is None else with_lora(model, config.lora_rank, config.seed)


@dataclass(frozen=True)
class _Trained:
    weights: dict[str, torch.Tensor]
    """Weights of the model as `_model_in_training` makes it; empty in processes that do not write it."""
    steps: int
    tokens: int


def _train(
    config: FinetuneConfig,
    run: Path,
    windows: Dataset,
    validation: Int[Tensor, "window pos"] | None,
    teacher: PreTrainedModel | None,
) -> _Trained:
    """Trains from the last checkpoint on, or from the start."""
    state = PartialState()
    set_seed(config.seed)
    model = _model_in_training(config, run)
    linearised: list[Linearised] = [*annealed_gates(model), *annealed_norms(model)]
    on_cpu = state.device.type == "cpu"
    made = trainer(config, run, model, teacher, windows, validation, linearised, use_cpu=on_cpu)
    made.train_in_folder()
    weights = made.accelerator.get_state_dict(made.model_wrapped)
    return _Trained(
        weights={name: value.cpu() for name, value in weights.items()},
        steps=made.state.global_step,
        tokens=len(windows) * config.window,  # type: ignore[arg-type]
    )


def _finish(
    config: FinetuneConfig, run: Path, trained: _Trained, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Merges, folds, verifies and writes the trained model; returns the record."""
    model: Any = _model_in_training(config, run)
    model.load_state_dict(trained.weights)
    model = _folded(model.eval(), config)
    settings = _settings(config)
    record = {
        "source": settings["model"],
        "settings": settings,
        **read_json(run / "start" / START),
        "steps": trained.steps,
        "tokens": trained.tokens,
        "log": read_log(run),
    }
    model.config.use_cache = True
    with finishing(run, config.output) as folder:
        with writing(config.output, _MAKE_ROOM):
            save_folder(model, tokenizer, folder, record={"made_by": "finetune"}, store=config.store)
        record["reload_difference"] = require_reloads(model, folder, config.store)
        if config.validation is not None:
            text = read_plain_text(config.validation)
            saved = load_pretrained(folder, device=find_device(config.device))
            record["validation"] = dataclasses.asdict(text_loss(saved, tokenizer, text, progress=True))
        write_json(folder / RECORD, record)
        shutil.copyfile(run / LOG, folder / LOG)
        loss_figure(record["log"], folder / "loss.png")
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
