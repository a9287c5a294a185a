"""Training: GLU language models into bilinear ones, bilinear ones from scratch, and dictionaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

# Before its modules: a thread that imports one of them waits for the package with the module locked.
import bilinear_lm  # noqa: F401
from bilinear_lm.first_use import names_on_first_use
from finetune.dictionaries.config import DictionaryConfig
from finetune.editing.config import EditConfig
from finetune.finetuning.config import ConvertConfig, FinetuneConfig
from finetune.pretraining.config import PretrainConfig

if TYPE_CHECKING:
    from finetune.conversion.convert import Conversion, LayerConversion, convert
    from finetune.conversion.glu_fit import FitSettings, fit_bilinear
    from finetune.data.calibration import calibration_windows
    from finetune.dictionaries.train import train_dictionaries
    from finetune.edits import Edit, EditReport, edit, interaction
    from finetune.finetuning.finetune import finetune
    from finetune.networks.images import train_classifier
    from finetune.networks.images_config import ImageTraining
    from finetune.networks.tasks import Gates, Superposition, composed_table
    from finetune.networks.toy import ToyTraining, new_models, train_toy
    from finetune.pretraining.pretrain import pretrain

__all__ = [
    "Conversion",
    "ConvertConfig",
    "DictionaryConfig",
    "Edit",
    "EditConfig",
    "EditReport",
    "FinetuneConfig",
    "FitSettings",
    "Gates",
    "ImageTraining",
    "LayerConversion",
    "PretrainConfig",
    "Superposition",
    "ToyTraining",
    "calibration_windows",
    "composed_table",
    "convert",
    "edit",
    "finetune",
    "fit_bilinear",
    "interaction",
    "new_models",
    "pretrain",
    "train_classifier",
    "train_dictionaries",
    "train_toy",
]


_LIGHT = {
    "finetune.conversion.glu_fit",
    *(f"finetune.networks.{name}" for name in ("images", "images_config", "tasks", "toy")),
}
"""Modules that do not need transformers."""

__getattr__ = names_on_first_use(__name__, light=_LIGHT)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
