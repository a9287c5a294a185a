"""Training: GLU language models into bilinear ones, bilinear ones from scratch, and dictionaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

# Before its modules: a thread that imports one of them waits for the package with the module locked.
import bilinear_lm  # noqa: F401
from bilinear_lm.first_use import names_on_first_use
from finetune.config import PretrainConfig
from finetune.dictionary_config import DictionaryConfig
from finetune.finetune_config import ConvertConfig, FinetuneConfig

if TYPE_CHECKING:
    from finetune.calibration import calibration_windows
    from finetune.conversion import Conversion, LayerConversion, convert
    from finetune.dictionaries import train_dictionaries
    from finetune.from_scratch import pretrain
    from finetune.glu_fit import FitSettings, fit_bilinear
    from finetune.into_bilinear import finetune

_ON_FIRST_USE = {
    "Conversion": "finetune.conversion",
    "FitSettings": "finetune.glu_fit",
    "LayerConversion": "finetune.conversion",
    "calibration_windows": "finetune.calibration",
    "convert": "finetune.conversion",
    "finetune": "finetune.into_bilinear",
    "fit_bilinear": "finetune.glu_fit",
    "pretrain": "finetune.from_scratch",
    "train_dictionaries": "finetune.dictionaries",
}

__all__ = [
    "Conversion",
    "ConvertConfig",
    "DictionaryConfig",
    "FinetuneConfig",
    "FitSettings",
    "LayerConversion",
    "PretrainConfig",
    "calibration_windows",
    "convert",
    "finetune",
    "fit_bilinear",
    "pretrain",
    "train_dictionaries",
]


__getattr__ = names_on_first_use(__name__, _ON_FIRST_USE, light={"finetune.glu_fit"})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
