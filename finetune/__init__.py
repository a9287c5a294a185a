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
    from finetune.pretraining.pretrain import pretrain

_ON_FIRST_USE = {
    "Conversion": "finetune.conversion.convert",
    "Edit": "finetune.edits",
    "EditReport": "finetune.edits",
    "FitSettings": "finetune.conversion.glu_fit",
    "LayerConversion": "finetune.conversion.convert",
    "calibration_windows": "finetune.data.calibration",
    "convert": "finetune.conversion.convert",
    "edit": "finetune.edits",
    "finetune": "finetune.finetuning.finetune",
    "fit_bilinear": "finetune.conversion.glu_fit",
    "interaction": "finetune.edits",
    "pretrain": "finetune.pretraining.pretrain",
    "train_dictionaries": "finetune.dictionaries.train",
}

__all__ = [
    "Conversion",
    "ConvertConfig",
    "DictionaryConfig",
    "Edit",
    "EditConfig",
    "EditReport",
    "FinetuneConfig",
    "FitSettings",
    "LayerConversion",
    "PretrainConfig",
    "calibration_windows",
    "convert",
    "edit",
    "finetune",
    "fit_bilinear",
    "interaction",
    "pretrain",
    "train_dictionaries",
]


__getattr__ = names_on_first_use(__name__, _ON_FIRST_USE, light={"finetune.conversion.glu_fit"})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
