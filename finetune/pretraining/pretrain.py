"""Training a bilinear language model, its SwiGLU twin, or an ordinary model, from scratch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bilinear_lm.arguments import checked
from bilinear_lm.checkpoints.load import load_pretrained
from bilinear_lm.checkpoints.save import save_folder, save_tokenizer
from bilinear_lm.checkpoints.tokenizer import load_tokenizer
from bilinear_lm.device import find_device
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder, read_json, write_json
from bilinear_lm.text.evaluate import TextLoss, text_loss
from bilinear_lm.text.files import read_plain_text
from finetune.data.sources import documents
from finetune.data.windows import Windows, require_window, tokenize_source, train_tokenizer
from finetune.pretraining.config import PretrainConfig
from finetune.pretraining.presets import find_preset, new_model
from finetune.runs.folder import as_json, finishing, is_finished, open_run, preparing, training, writing
from finetune.runs.kept import KeepCheckpoints
from finetune.runs.log import RunLog
from finetune.runs.manifest import require_undamaged, write_manifest
from finetune.runs.trainer import RunTrainer, training_arguments, whole_steps

RECORD = "train.json"

LOG_STEPS = 50
"""Steps between entries of the log."""

_MAKE_ROOM = "nothing is lost: make room and go on with --resume"


@checked
def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Trains a model and writes it to `config.output`; returns what train.json records.

    While it runs, the tokenizer, the settings and the checkpoints lie in `<output>.run`; that folder
    vanishes when the model is written, and `resume=True` goes on from it after an interruption.

    Raises InputError for bad settings or data, a resumed run of other settings, and training that diverges;
    checkpoints are kept then.
    """
    config.check()
    if is_finished(config.output, _settings(config), config.resume, RECORD):
        return read_json(config.output / RECORD)
    with preparing(config.output) as run:
        open_run(config.output, _settings(config), config.resume)
        tokenizer = _tokenizer(config, run)
        windows = _windows(config, tokenizer)
        kept = config.kept_steps(len(windows) // _batch_size(config, windows))
    with training(run):
        model, log, steps = _train(config, run, tokenizer, windows, kept)
    record = {
        "settings": _settings(config),
        "steps": steps,
        "tokens": len(windows) * find_preset(config.preset).n_ctx,
        "parameters": model.num_parameters(),
        "training_loss": [{"step": entry["step"], "nats_per_token": entry["loss"]} for entry in log],
    }
    model.config.use_cache = True  # switched off by the Trainer
    with finishing(run, config.output) as folder:
        with writing(config.output, _MAKE_ROOM):
            save_folder(model, tokenizer, folder, store=config.store)
        if config.validation is not None:
            record["validation"] = dataclasses.asdict(_evaluate(folder, config.validation))
        write_json(folder / RECORD, record)
    return record


def _train(
    config: PretrainConfig,
    run: Path,
    tokenizer: PreTrainedTokenizerBase,
    windows: Sized,
    kept: Sequence[int],
) -> tuple[PreTrainedModel, list[dict[str, Any]], int]:
    """The trained model, the entries of the log, and the number of steps."""
    preset = find_preset(config.preset)
    set_seed(config.seed)
    model = new_model(preset, gate=config.gate, d_vocab=len(tokenizer))
    for settings in (model.config, model.generation_config):
        settings.bos_token_id, settings.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    arguments = training_arguments(
        config,
        run,
        per_device_train_batch_size=_batch_size(config, windows),
        lr_scheduler_type="cosine",
        adam_beta2=0.98,
        use_cpu=find_device(config.device).type == "cpu",
        logging_steps=LOG_STEPS,
        report_to="none",
    )
    log = RunLog(run, "train", preset.n_ctx)
    trainer = RunTrainer(log, model=model, train_dataset=windows, args=arguments)
    if kept:
        trainer.add_callback(KeepCheckpoints(run, kept, model, tokenizer, config.store))
    trainer.train_in_folder()
    return model, log.entries, trainer.state.global_step


def _batch_size(config: PretrainConfig, windows: Sized) -> int:
    """Windows a step; a text that does not fill one step is one step of all its windows."""
    return min(config.batch_size, len(windows))


def _settings(config: PretrainConfig) -> dict[str, Any]:
    """The settings that decide what the model becomes, without the folders' whereabouts."""
    unused = () if config.keep_checkpoints else ("keep_checkpoints",)
    return as_json(config, leave_out=("output", "resume", "device", *unused))


def _tokenizer(config: PretrainConfig, run: Path) -> PreTrainedTokenizerBase:
    """The tokenizer asked for, or one trained on the data; kept in the run's folder."""
    folder = run / "tokenizer"
    if not folder.exists():
        if config.tokenizer is not None:
            tokenizer = load_tokenizer(config.tokenizer)
        else:
            texts = (text for source in config.data for text in documents(source, config.selection))
            read = tqdm(texts, desc="train tokenizer", unit=" documents")
            tokenizer = train_tokenizer(iter(read), find_preset(config.preset).d_vocab)
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
            raise InputError(
                f"{config.tokenizer}: a tokenizer for training needs a first and an end-of-text token"
            )
        with new_folder(folder) as draft, writing(folder, "make room and run again"):
            save_tokenizer(tokenizer, draft)
            write_manifest(draft)
    require_undamaged(folder)
    return load_tokenizer(folder)


def _windows(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The windows to train on, which fill whole steps."""
    streams, context = [], find_preset(config.preset).n_ctx
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
    return whole_steps(windows, _batch_size(config, windows), config.seed)


def _evaluate(folder: Path, validation: Path) -> TextLoss:
    """The loss of the model as it lies on disk."""
    text = read_plain_text(validation)
    return text_loss(load_pretrained(folder), load_tokenizer(folder), text, progress=True)
