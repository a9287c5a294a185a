"""`bilinear-lm diff`: what has changed between two checkpoints, and by how much at most."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from bilinear_lm.checks import require_count, require_seed
from bilinear_lm.commands.arguments import Checkpoint, Output
from bilinear_lm.device import DeviceName, find_device
from bilinear_lm.errors import InputError
from bilinear_lm.files import (
    new_folder,
    require_new,
    told,
    versions_of_run,
    write_json,
    write_tensors,
    write_text,
)
from bilinear_lm.shipped import shipped_names, shipped_scope
from bilinear_lm.text.files import read_plain_text

if TYPE_CHECKING:
    from torch import Tensor, nn

    from analysis.guarantees.layer_difference import LayerDifference
    from analysis.guarantees.models_difference import Difference

LISTED = 10
"""Findings that are printed."""


def diff(
    checkpoint: Checkpoint,
    other: Annotated[str, tyro.conf.Positional],
    /,
    *,
    output: Output,
    null: tuple[str, ...] = (),
    dictionaries: Path | None = None,
    contexts: Path | None = None,
    names: Path | None = None,
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 8,
    page: bool = False,
    device: DeviceName = "auto",
    seed: int = 0,
) -> None:
    """Tell what has changed between two checkpoints of one shape, from weights alone, and bound it.

    Writes diff.json (the changes in one ranking, and each layer's largest change over all inputs) and
    diff.safetensors (the size of every change, and the inputs at which layers differ most); with --page also
    diff.html. Weights that are equal up to the symmetries of a layer differ by 0.

    Args:
        checkpoint: Folder, hub repository, or name of a shipped model.
        other: The same of the second model, such as a finetune of the first.
        output: New folder for the files.
        null: Checkpoints that differ from the first as the second would by chance: as much training on clean
            text. Changes are then ranked by how far they exceed theirs.
        dictionaries: Folder of dictionaries of the first model, at mlp-in (or resid-mid) and mlp-out; a
            shipped model has its own.
        contexts: Text file that features are named by, documents separated by <|endoftext|>; a shipped model
            has its own. Without one they are named by tokens that they act on by weights alone.
        names: JSON file of your own names for features, as the page of `report` saves it.
        k: How many output directions of a layer to bound, interactions to list and findings to bound.
        page: Write diff.html as well.
        device: Where to compute.
        seed: Seeds the search for the inputs at which layers differ most.
    """
    from analysis.features.chosen_names import chosen_names
    from analysis.features.dictionaries import around_mlps, dictionaries_in
    from analysis.guarantees.models_difference import diff as compare
    from analysis.guarantees.models_difference import null_changes
    from analysis.text.vocabulary import require_same_tokens
    from bilinear_lm.checkpoints import load_pretrained, load_tokenizer
    from bilinear_lm.dictionaries.names import load_feature_names

    require_count(k, f"--k {k}")
    require_seed(seed)
    require_new(output)
    where = find_device(device)
    model, tokenizer = load_pretrained(checkpoint, device=where), load_tokenizer(checkpoint)
    folder = dictionaries or shipped_scope(checkpoint)[0]
    described = {} if folder is None else around_mlps(dictionaries_in(folder, model))
    for option, path in (("--contexts", contexts), ("--names", names)):
        if path is not None and not described:
            raise InputError(f"diff: {option} {path} without dictionaries whose features it is to name")
    given = load_feature_names(names, described)
    kept = {} if dictionaries or contexts else shipped_names(checkpoint)
    text = None if contexts is None else read_plain_text(contexts)

    def load(name: str) -> nn.Module:
        require_same_tokens(tokenizer, load_tokenizer(name), checkpoint, name)
        return load_pretrained(name, device=where)

    second = load(other)
    beside = null_changes(model, [load(name) for name in null], described) if null else ()
    found = compare(
        model,
        second,
        tokenizer=tokenizer,
        dictionaries=described,
        names=chosen_names(model, tokenizer, described, kept, text, given),
        null=beside,
        k=k,
        seed=seed,
    )
    titles = (told(checkpoint), told(other))
    result = {
        "settings": {
            "checkpoint": titles[0],
            "other": titles[1],
            "null": [told(name) for name in null],
            "dictionaries": None if folder is None else told(folder),
            "contexts": None if contexts is None else told(contexts),
            "names": None if names is None else told(names),
            "k": k,
            "seed": seed,
        },
        "versions": versions_of_run(),
        "notes": list(found.notes),
        "score": found.score,
        "strongest": [asdict(finding) | {"told": finding.told} for finding in found.strongest],
        "layers": [_layer(layer) for layer in found.layers],
    }
    with new_folder(output) as draft:
        write_json(draft / "diff.json", result)
        write_tensors(draft / "diff.safetensors", _tensors(found))
        if page:
            from analysis.report.difference_page import difference_page

            write_text(draft / "diff.html", difference_page(found, *titles))
    for finding in found.strongest[:LISTED]:
        print(f"{finding.score:8.3g}  {finding.told}{_said(finding.toward)}")
    for note in found.notes:
        print(note)
    if not found.strongest:
        print("no difference")
    print(output)


def _said(toward: tuple[tuple[str, float], ...]) -> str:
    return " → " + ", ".join(f"{token} {value:+.3g}" for token, value in toward) if toward else ""


def _layer(layer: LayerDifference) -> dict[str, Any]:
    return {
        "layer": layer.layer,
        "change": layer.change,
        "relative": layer.relative,
        "cosine": layer.cosine,
        "largest": {"low": layer.largest.low, "high": layer.largest.high},
        "directions": [
            {"along": each.along, "name": each.name, "low": each.low, "high": each.high}
            for each in layer.directions
        ],
        "interactions": [asdict(each) for each in layer.interactions],
    }


def _tensors(found: Difference) -> dict[str, Tensor]:
    """The sizes of all changes by place, and the inputs of the largest changes by layer."""
    import torch

    tensors: dict[str, Tensor] = {}
    for (kind, layer), sizes in found.sizes.items():
        place = kind.replace(" ", "-") + ("" if layer is None else f".{layer}")
        tensors |= {f"{place}.change": sizes.change, f"{place}.own": sizes.own}
    for each in found.layers:
        tensors[f"layer.{each.layer}.input"] = each.largest.input
        tensors[f"layer.{each.layer}.direction"] = each.largest.direction
        if each.directions:
            tensors[f"layer.{each.layer}.inputs"] = torch.stack([one.input for one in each.directions])
    return tensors
