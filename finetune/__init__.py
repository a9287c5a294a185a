"""Training: GLU language models into bilinear ones, bilinear ones from scratch, and dictionaries."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:  # these load transformers' Trainer
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_FIRST_USE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
