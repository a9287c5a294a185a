"""`load_tokenizer`: the tokenizer that belongs to a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bilinear_lm.checkpoints.huggingface import one_line, quiet
from bilinear_lm.checkpoints.locate import TOKENIZER_FILES, locate
from bilinear_lm.errors import InputError


def load_tokenizer(
    path_or_repo: str | os.PathLike[str], revision: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint."""
    return _from_folder(locate(path_or_repo, revision, TOKENIZER_FILES))


def _from_folder(folder: Path) -> PreTrainedTokenizerBase:
    with quiet():
        try:
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except (ValueError, TypeError, KeyError, ImportError, OSError) as error:
            raise InputError(f"{folder}: its tokenizer cannot be read ({one_line(error)})") from error
