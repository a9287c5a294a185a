"""Checkpoints: every format that is read, the one that is written, and what they hold."""

from bilinear_lm.checkpoints.load import load_pretrained
from bilinear_lm.checkpoints.locate import shipped_models
from bilinear_lm.checkpoints.tokenizer import load_tokenizer

__all__ = ["load_pretrained", "load_tokenizer", "shipped_models"]
