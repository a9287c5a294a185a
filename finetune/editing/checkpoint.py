"""`bilinear-lm edit`: a checkpoint with some interactions changed, and what that can do at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bilinear_lm.checkpoints.load import load_pretrained
from bilinear_lm.checkpoints.save import save_folder
from bilinear_lm.checkpoints.tokenizer import load_tokenizer
from bilinear_lm.device import find_device
from bilinear_lm.dictionaries import load_dictionary
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.dictionaries.names import load_feature_names, renamed
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder, read_tensors, require_new, require_writable, told, write_json
from bilinear_lm.shipped import shipped_dictionary_names, shipped_scope
from bilinear_lm.sites import Point, Site
from bilinear_lm.weights import embedding, mlp_norm_factor, mlp_tensor
from finetune.conversion.verification import require_reloads, require_tokenizer_fits
from finetune.editing.config import EditConfig, Named, feature_number
from finetune.edits import Edit, EditReport, edit, interaction
from finetune.runs.folder import as_json, writing

RECORD = "edit.json"


def edit_checkpoint(config: EditConfig) -> EditReport:
    """Edits a model and writes it to `config.output`, with edit.json beside it.

    Bare transformers load the folder to the same logits; the source stays as it is.
    """
    config.check()
    require_new(config.output)
    require_writable(config.output / RECORD)
    where = find_device(config.device)
    model = load_pretrained(config.model, device=where, dtype=torch.float32)
    tokenizer = load_tokenizer(config.model)
    require_tokenizer_fits(tokenizer, model)
    directions = _Directions.of(config, model)
    features = _feature_names(config, directions)
    named = config.named()
    edits = [directions.edit(each, model, config.keep) for each in named]
    report = edit(model, edits)
    with new_folder(config.output) as folder:
        with writing(config.output, "make room or choose another output path"):
            save_folder(model, tokenizer, folder, record={"made_by": "edit"}, store=config.store)
        sources = {
            name: None if (given := getattr(config, name)) is None else told(given)
            for name in ("inputs", "outputs", "directions", "names")
        }
        settings = as_json(config, ("output", "device"), **sources)
        record = {
            "source": settings["model"],
            "settings": settings,
            "interactions": [
                asdict(done) | {"how": each.how, "names": directions.names(each, *features)}
                for done, each in zip(report.interactions, named, strict=True)
            ],
            "layers": [asdict(layer) for layer in report.layers],
            "d_mlp": report.d_mlp,
            "n_units": report.n_units,
            "bounded": report.bounded,
            "reload_difference": require_reloads(model, folder, config.store),
        }
        write_json(folder / RECORD, record)
    return report


@dataclass(frozen=True)
class _Directions:
    """The vectors that names stand for, at mlp-in and mlp-out of one layer."""

    layer: int
    inputs: Dictionary | None
    outputs: Dictionary | None
    paths: tuple[str | None, str | None]
    """Where the two dictionaries lie."""
    factor: Tensor
    """Between x / rms(x), which a dictionary at resid-mid describes, and what the MLP reads."""
    named: dict[str, Tensor]

    @classmethod
    def of(cls, config: EditConfig, model: PreTrainedModel) -> _Directions:
        width = embedding(model).shape[1]
        layer = _layer(config.layer, model)
        mlp_tensor(model, layer)  # refuses a gate that is not linear before anything is read
        named = {} if config.directions is None else _vectors(config.directions, width)
        scope = shipped_scope(config.model)[0]

        def side(path: str | None, points: tuple[Point, ...]) -> Dictionary | None:
            return None if path is None else _dictionary(path, layer, points, width, model.device)

        own = [None if scope is None else str(scope / f"{layer}-{point}") for point in ("mlp-in", "mlp-out")]
        paths = (config.inputs or own[0], config.outputs or own[1])
        inputs, outputs = side(paths[0], ("mlp-in", "resid-mid")), side(paths[1], ("mlp-out",))
        return cls(layer, inputs, outputs, paths, mlp_norm_factor(model, layer), named)

    def edit(self, each: Named, model: PreTrainedModel, keep: tuple[str, ...]) -> Edit:
        """The edit that is written so."""
        output, written = self._output(each.output)
        left = self._input(each.inputs[0])
        inputs = (left, left if each.inputs[0] == each.inputs[1] else self._input(each.inputs[1]))
        before = interaction(model, self.layer, output, inputs)
        change = {"delete": -before, "scale": (each.amount - 1) * before, "insert": each.amount}[each.how]
        kept = torch.stack([self._input(name) for name in keep]) if keep else None
        return Edit(self.layer, output, inputs, change, written, kept, each.text)

    def names(self, each: Named, inputs: Sequence[str], outputs: Sequence[str]) -> list[str]:
        """The output and both inputs in words: features by number and name, where they have one."""
        sides = ((each.output, outputs), *((name, inputs) for name in each.inputs))
        return [
            name if name in self.named else f"#{name} {names[int(name)]}".rstrip() for name, names in sides
        ]

    def _input(self, name: str) -> Tensor:
        if name in self.named:
            return self.named[name].to(self.factor)
        dictionary = _required(self.inputs, name, "--inputs")
        row = dictionary.decoder[feature_number(name, dictionary.n_feat, "input feature")]
        return row * self.factor if dictionary.site == Site(self.layer, "resid-mid") else row

    def _output(self, name: str) -> tuple[Tensor, Tensor | None]:
        if name in self.named:
            return self.named[name].to(self.factor), None
        dictionary = _required(self.outputs, name, "--outputs")
        feature = feature_number(name, dictionary.n_feat, "output feature")
        return dictionary.encoder[:, feature], dictionary.decoder[feature]


def _feature_names(config: EditConfig, directions: _Directions) -> tuple[Sequence[str], Sequence[str]]:
    """The names of all input and all output features: those that ship, and a user's own."""
    ends = {one.site: one for one in (directions.inputs, directions.outputs) if one is not None and one.site}
    given = {} if config.names is None else load_feature_names(config.names, ends)
    sides: list[Sequence[str]] = []
    for dictionary, path in zip((directions.inputs, directions.outputs), directions.paths, strict=True):
        if dictionary is None or path is None or dictionary.site is None:
            sides.append(())
            continue
        site = dictionary.site
        made = shipped_dictionary_names(config.model, path)
        sides.append(renamed({site: made or [""] * dictionary.n_feat}, given)[site])
    return sides[0], sides[1]


def _layer(layer: int, model: nn.Module) -> int:
    config: Any = model.config
    n = config.num_hidden_layers
    if not -n <= layer < n:
        raise InputError(f"layer {layer} does not exist; the model has layers 0 to {n - 1}")
    return layer % n


def _required(dictionary: Dictionary | None, name: str, option: str) -> Dictionary:
    if dictionary is None:
        raise InputError(
            f"feature {name!r} of no dictionary; expected one by {option}, or a name in --directions"
        )
    return dictionary


def _dictionary(
    path: str, layer: int, points: tuple[Point, ...], width: int, device: torch.device
) -> Dictionary:
    dictionary = load_dictionary(path, device=device, d_in=width)
    if dictionary.site is None:
        dictionary = replace(dictionary, site=Site(layer, points[0]))
    sites = [Site(layer, point) for point in points]
    if dictionary.site not in sites or dictionary.target not in (None, dictionary.site):
        raise InputError(
            f"{path}: is a dictionary of {dictionary.target or dictionary.site}; expected one of "
            f"{' or '.join(map(str, sites))}"
        )
    if dictionary.nonlinear is not None:
        raise InputError(f"{path}: {dictionary.nonlinear}, whose features read and write no one direction")
    return dictionary


def _vectors(path: Path, width: int) -> dict[str, Tensor]:
    vectors = read_tensors(path)
    for name, vector in vectors.items():
        if vector.shape != (width,) or not vector.is_floating_point():
            raise InputError(
                f"{path}: {name} is {vector.dtype} {list(vector.shape)}; expected a vector of the model's "
                f"width, {width}"
            )
    return vectors
