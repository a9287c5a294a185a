"""`bilinear-lm convert`: from a checkpoint to a bilinear one."""

from __future__ import annotations

import dataclasses

from bilinear_lm.checkpoints.load import load_pretrained
from bilinear_lm.checkpoints.save import save_folder
from bilinear_lm.checkpoints.tokenizer import load_tokenizer
from bilinear_lm.device import find_device
from bilinear_lm.files import new_folder, require_new, require_writable, write_json
from finetune.conversion.convert import Conversion, convert
from finetune.conversion.glu_fit import FitSettings
from finetune.conversion.verification import require_reloads, require_tokenizer_fits
from finetune.data.calibration import calibration_windows
from finetune.finetuning.config import ConvertConfig
from finetune.runs.folder import as_json, writing

RECORD = "convert.json"


def convert_checkpoint(config: ConvertConfig) -> Conversion:
    """Converts a model and writes it to `config.output`, with convert.json beside it.

    Bare transformers load the folder to the same logits; the source stays as it is.
    """
    config.check()
    require_new(config.output)
    require_writable(config.output / RECORD)
    model = load_pretrained(config.model, device=find_device(config.device))
    tokenizer = load_tokenizer(config.model)
    require_tokenizer_fits(tokenizer, model)
    windows = None
    if config.calibration:
        windows = calibration_windows(
            tokenizer,
            config.calibration,
            n_tokens=config.calibration_tokens,
            context=min(config.context, model.config.max_position_embeddings),
            seed=config.seed,
            selection=config.selection,
        )
    fit = FitSettings(steps=config.steps, batch_size=config.batch_size, seed=config.seed)
    done = convert(model, config.method, windows, biases=config.biases, fit=fit, progress=True)
    with new_folder(config.output) as folder:
        with writing(config.output, "make room or choose another output path"):
            save_folder(model, tokenizer, folder, record={"made_by": "convert"}, store=config.store)
        settings = as_json(config, leave_out=("output", "device"))
        record = {
            "source": settings["model"],
            "settings": settings,
            "conversion": dataclasses.asdict(done),
            "reload_difference": require_reloads(model, folder, config.store),
        }
        write_json(folder / RECORD, record)
    return done
