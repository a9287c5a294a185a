"""Writing dictionaries, for SAELens and for sparsify."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.dictionaries import saelens, sparsify
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder, require_finite, write_json

Format = Literal["saelens", "sparsify"]


@checked
def save_dictionary(
    dictionary: Dictionary, folder: str | os.PathLike[str], format: Format = "sparsify"
) -> None:
    """Writes a dictionary into a new folder, all or nothing, in its own precision.

    Raises InputError for weights that are not finite, and where the format cannot express it: neither has
    bilinear encoders, coordinates passed through or signed codes, and sparsify has topk dictionaries of one
    width and without normalisation only.
    """
    weights, tensors, config = _written(dictionary, format)
    require_finite(tensors, Path(folder))
    with new_folder(Path(folder)) as draft:
        write_json(draft / "cfg.json", config)
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, draft / weights)


def _written(dictionary: Dictionary, format: Format) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    if dictionary.encoder_gate is not None:
        raise InputError(f"{format} has no bilinear encoders; the published format alone has them")
    if dictionary.passthrough:
        raise InputError(f"{format} cannot pass coordinates through; the published format alone can")
    if format == "saelens":
        return saelens.WEIGHTS, *saelens.write_saelens(dictionary)
    if format == "sparsify":
        return sparsify.WEIGHTS, *sparsify.write_sparsify(dictionary)
    raise InputError(f"format {format!r} of a dictionary; expected saelens or sparsify")
