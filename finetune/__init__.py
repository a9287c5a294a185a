"""Training: bilinear language models from scratch, their SwiGLU twins, and dictionaries of activations."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from finetune.config import PretrainConfig
from finetune.dictionary_config import DictionaryConfig

if TYPE_CHECKING:
    from finetune.dictionaries import train_dictionaries
    from finetune.from_scratch import pretrain

_ON_FIRST_USE = {"pretrain": "finetune.from_scratch", "train_dictionaries": "finetune.dictionaries"}

__all__ = ["DictionaryConfig", "PretrainConfig", "pretrain", "train_dictionaries"]


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:  # these load transformers' Trainer
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_FIRST_USE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
