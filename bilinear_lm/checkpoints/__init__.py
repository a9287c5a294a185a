"""Checkpoints: every format that is read, the one that is written, and what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bilinear_lm.first_use import names_on_first_use

if TYPE_CHECKING:
    from bilinear_lm.checkpoints.info import CheckpointInfo, checkpoint_info
    from bilinear_lm.checkpoints.load import load_pretrained
    from bilinear_lm.checkpoints.save import export, save_folder
    from bilinear_lm.checkpoints.tokenizer import has_tokenizer, load_tokenizer

__all__ = [
    "CheckpointInfo",
    "checkpoint_info",
    "export",
    "has_tokenizer",
    "load_pretrained",
    "load_tokenizer",
    "save_folder",
]


__getattr__ = names_on_first_use(__name__, light={"bilinear_lm.checkpoints.info"})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
