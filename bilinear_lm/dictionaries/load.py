"""`load_dictionary`: one door for every format of dictionaries."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from bilinear_lm.arguments import checked
from bilinear_lm.dictionaries import gemma_scope, saelens, sparsify
from bilinear_lm.dictionaries.circuit_tracer import read_circuit_tracer
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.dictionaries.locate import locate_dictionary
from bilinear_lm.dictionaries.npz import read_arrays
from bilinear_lm.dictionaries.published import read_published
from bilinear_lm.errors import InputError
from bilinear_lm.files import own_file, read_json, read_tensors, reading, require_finite, require_floating
from bilinear_lm.sites import Site

_WEIGHTS = (
    "model.safetensors",
    saelens.WEIGHTS,
    sparsify.WEIGHTS,
    gemma_scope.ARRAYS,
    gemma_scope.WEIGHTS,
)
_PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin")


@checked
def load_dictionary(
    path_or_repo: str | os.PathLike[str],
    *,
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    site: Site | None = None,
    d_in: int | None = None,
    norm_scaling_factor: float | None = None,
) -> Dictionary:
    """A dictionary from a folder, a shipped one's name, or a folder of a hub repository.

    The keys of the file tell its format: the published `-scope` format, SAELens, sparsify, Gemma Scope, or
    circuit-tracer's transcoders, whose file itself is given (`layer_3.safetensors`).

    Weights are float32 unless `dtype` says otherwise; `device` is the CPU by default. With `site` or `d_in`
    a dictionary of another site or width is refused; where its file does not tell a site it gets this one.
    `norm_scaling_factor` is for a SAELens file with normalize_activations expected_average_only_in that lacks
    it: the number that activations were multiplied by in training, √d_in over their mean norm.

    >>> load_dictionary("stories-scope/0-mlp-in", site=Site(0, "mlp-in"), d_in=192)  # doctest: +SKIP
    >>> load_dictionary("tdooms/fw-medium-scope/8-mlp-out-x8-k30")  # doctest: +SKIP
    >>> load_dictionary("google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")  # doctest: +SKIP
    """
    path = locate_dictionary(path_or_repo, revision)
    try:
        with reading(path):
            dictionary = _read(path, norm_scaling_factor)
        dictionary = dictionary.to(device=device, dtype=torch.float32 if dtype is None else dtype)
        require_finite(dictionary.weights, path)
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        # Parts that do not fit together are found without knowing where they came from.
        raise InputError(f"{path}: {error}") from error
    if d_in is not None and dictionary.d_in != d_in:
        raise InputError(
            f"{path}: a dictionary of width {dictionary.d_in}, expected {d_in}; it belongs to another model"
        )
    if site is not None and dictionary.site not in (None, site):
        raise InputError(f"{path}: a dictionary of site {dictionary.site}, expected {site}")
    return replace(dictionary, site=dictionary.site or site)


def _read(path: Path, norm_scaling_factor: float | None) -> Dictionary:
    file = path if path.is_file() else _weight_file(path)
    for name in ("cfg.json", "config.json", *([] if path.is_file() else [file.name])):
        own_file(file.parent, name)
    if file.suffix not in (".safetensors", ".npz"):
        raise InputError(_refusal(file))
    tensors = read_arrays(file) if file.suffix == ".npz" else read_tensors(file)
    require_floating(tensors, file)
    if norm_scaling_factor is not None and file.name != saelens.WEIGHTS:
        raise InputError(f"{path}: norm_scaling_factor={norm_scaling_factor} is for files of SAELens alone")
    if file.suffix == ".npz":
        return gemma_scope.read_gemma_scope(tensors, file)
    if file.name == gemma_scope.WEIGHTS:
        config = file.with_name("config.json")
        return gemma_scope.read_gemma_scope_2(tensors, read_json(config) if config.is_file() else None, file)
    if path.is_file():
        if {"W_enc", "W_dec"} <= tensors.keys() and path.name not in _WEIGHTS:
            return read_circuit_tracer(tensors, path)
        raise InputError(f"{path}: not a transcoder of circuit-tracer; give the folder of the dictionary")
    if "w_enc.weight" in tensors:
        return read_published(tensors, read_json(path / "config.json"), path)
    if "encoder.weight" in tensors:
        return sparsify.read_sparsify(tensors, read_json(path / "cfg.json"), path)
    if "W_enc" in tensors:
        return saelens.read_saelens(tensors, read_json(path / "cfg.json"), path, norm_scaling_factor)
    raise InputError(
        f"{file}: no dictionary in it, its tensors are {', '.join(sorted(tensors)[:5])}; "
        "expected w_enc.weight, encoder.weight or W_enc"
    )


def _weight_file(folder: Path) -> Path:
    """The file of a folder that holds the weights; a pickle or archive only where there is no other."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    inside = sorted(folder.iterdir())
    if others := [file for file in inside if file.suffix in _PICKLES]:
        return others[0]
    if transcoders := [file.name for file in inside if file.suffix == ".safetensors"]:
        raise InputError(f"{folder}: several transcoders; give one file of it, as {folder / transcoders[0]}")
    dictionaries = [part.name for part in inside if any((part / name).is_file() for name in _WEIGHTS)]
    listed = f"; give one of its folders {', '.join(dictionaries)}" if dictionaries else ""
    raise InputError(f"{folder}: no dictionary there, expected one of {', '.join(_WEIGHTS)}{listed}")


def _refusal(file: Path) -> str:
    if file.suffix not in _PICKLES:
        return f"{file}: not a dictionary; expected a folder, or a .safetensors file of circuit-tracer"
    return (
        f"{file}: a pickle or archive, which is never read because it can run code; load it once with the "
        "library that wrote it and save it as safetensors"
    )
