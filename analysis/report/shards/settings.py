"""Settings of a report on disk, and hashes of the models, dictionaries and texts it was made from.

A report that was interrupted goes on only with the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from analysis.graphs.graph import Graph
from analysis.report.options import FeatureSource, ReportOptions
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.files import versions


def settings_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    options: ReportOptions,
    source: FeatureSource | None,
    graphs: Sequence[Graph] = (),
    bilinear: PreTrainedModel | None = None,
) -> dict[str, Any]:
    """Everything that a report depends on, as JSON; `bilinear` is a copy whose tensors are read."""
    models = {"model": model} if bilinear is None else {"model": model, "quadratics": bilinear}
    found = {
        "name": name,
        "versions": versions(),
        "options": asdict(options)
        | {key: _digest(getattr(options, key)) for key in ("text", "evaluation_text")},
        "features": None if source is None else _of_source(source),
        "graphs": [[graph.target, graph.settings] for graph in graphs],
        "tokenizer": _digest([sorted(tokenizer.get_vocab().items()), tokenizer.all_special_ids]),
        **{key: _of_tensors(one.state_dict()) for key, one in models.items()},
    }
    return json.loads(json.dumps(found, default=str))


def _of_source(source: FeatureSource) -> dict[str, Any]:
    values = {field.name: getattr(source, field.name) for field in fields(source)}
    values["text"] = _digest(source.text)
    values |= {name: _digest(_named(values[name])) for name in ("names", "given")}
    values["dictionaries"] = {
        str(site): _of_dictionary(one)
        for around in source.dictionaries
        for site, one in ((around.read, around.inputs), (around.written, around.outputs))
    }
    return values


def differences(before: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The settings that differ, by name, with their values where these are short; nothing where all agree."""
    parts = []
    for name in sorted(before.keys() | asked.keys()):
        one, other = before.get(name), asked.get(name)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            parts.append(f"{name}: {differences(one, other)}")
        else:
            both = [json.dumps(value) for value in (one, other)]
            parts.append(name if max(map(len, both)) > 40 else f"{name} {both[0]}, not {both[1]}")
    return "; ".join(parts)


def _named(names: Mapping[Any, Any]) -> Any:
    return [
        [str(site), sorted(of_site.items()) if isinstance(of_site, Mapping) else list(of_site)]
        for site, of_site in sorted(names.items())
    ]


def _of_dictionary(dictionary: Dictionary) -> str:
    values = {field.name: getattr(dictionary, field.name) for field in fields(dictionary)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    rest = {name: value for name, value in values.items() if name not in tensors}
    return _digest([_of_tensors(tensors), rest])


def _of_tensors(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()
