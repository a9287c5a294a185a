"""Folders with small networks: network.json (kind, settings, versions) and network.safetensors.

A folder is written all or nothing, and read strictly: settings that the network does not have or lacks, and
weights of another name, shape or type, or that are not finite, are refused.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.files import (
    new_folder,
    read_json,
    read_shapes,
    read_tensors,
    require_finite,
    require_floating,
    require_representable,
    versions,
    write_json,
    write_tensors,
)
from bilinear_lm.networks.convolutional import ConvolutionalNetwork, ConvolutionalSettings
from bilinear_lm.networks.image import ImageClassifier, ImageSettings
from bilinear_lm.networks.policy import PolicyNetwork, PolicySettings

SETTINGS, WEIGHTS = "network.json", "network.safetensors"

NETWORKS: Mapping[str, tuple[type[nn.Module], type[Any]]] = {
    "ImageClassifier": (ImageClassifier, ImageSettings),
    "ConvolutionalNetwork": (ConvolutionalNetwork, ConvolutionalSettings),
    "PolicyNetwork": (PolicyNetwork, PolicySettings),
}
"""By kind: the class of a network, made of its settings, which it keeps as `settings`; and theirs."""


@checked
def save_network(network: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Writes a network into a new folder, all or nothing, in its own precision.

    InputError for a network of another class than those of `bilinear_lm.networks`, and for weights that are
    not finite.

    >>> save_network(ImageClassifier(), "classifier")  # doctest: +SKIP
    >>> load_network("classifier").settings.image_shape  # doctest: +SKIP
    (28, 28)
    """
    kind = type(network).__name__
    if kind not in NETWORKS or type(network) is not NETWORKS[kind][0]:
        raise InputError(f"a network of class {kind}; expected one of {', '.join(NETWORKS)}")
    tensors = {name: value.detach() for name, value in network.state_dict().items()}
    require_finite(tensors, Path(folder))
    settings: Any = network.settings
    with new_folder(Path(folder)) as draft:
        about = {"network": kind, "settings": dataclasses.asdict(settings), "versions": versions()}
        write_json(draft / SETTINGS, about)
        write_tensors(draft / WEIGHTS, tensors)


@checked
def load_network(
    folder: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The network in a folder that `save_network` wrote, on a device and in a precision; by default as saved.

    InputError for a folder that holds none, settings that are missing, left over or of another type, and
    weights that are not those of the settings or are not finite.

    >>> load_network("digits/classifier")(torch.rand(1, 8, 8)).shape  # doctest: +SKIP
    torch.Size([1, 10])
    """
    folder = Path(folder)
    about = read_json(folder / SETTINGS)
    if set(about) != {"network", "settings", "versions"}:
        raise InputError(
            f"{folder / SETTINGS}: holds {', '.join(sorted(about)) or 'nothing'}; expected network, settings "
            "and versions, as save_network writes them"
        )
    kind = about["network"]
    if not isinstance(kind, str) or kind not in NETWORKS:
        raise InputError(f"{folder / SETTINGS}: network {kind!r}; expected one of {', '.join(NETWORKS)}")
    made_of, of_settings = NETWORKS[kind]
    network = _empty(made_of, _settings(of_settings, about["settings"], folder / SETTINGS), folder)
    path = folder / WEIGHTS
    _require_shapes(network, path)
    tensors = read_tensors(path)
    require_floating(tensors, path)
    if len(kinds := {value.dtype for value in tensors.values()}) > 1:
        raise InputError(f"{path}: weights in {', '.join(sorted(map(str, kinds)))}; expected one precision")
    if dtype is not None:
        require_representable(tensors, dtype, path)
    network.load_state_dict({name: value.to(device, dtype) for name, value in tensors.items()}, assign=True)
    return network.requires_grad_()


def _settings(of_settings: type[Any], values: Any, path: Path) -> Any:
    """The settings of a network from JSON, in which a tuple is a list."""
    fields = {field.name: field for field in dataclasses.fields(of_settings)}
    if not isinstance(values, dict) or set(values) != set(fields):
        given = set(values) if isinstance(values, dict) else set()
        problems = [f"{name} is missing" for name in sorted(set(fields) - given)]
        problems += [f"{name} is left over" for name in sorted(given - set(fields))]
        raise InputError(f"{path}: the settings are not those of one network: {'; '.join(problems)}")
    for name, value in values.items():
        expected = list if isinstance(fields[name].default, tuple) else type(fields[name].default)
        if type(value) is not expected and not (expected is float and type(value) is int):
            raise InputError(f"{path}: {name} is {value!r}; expected a value of type {expected.__name__}")
    try:
        return of_settings(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _empty(made_of: type[nn.Module], settings: Any, folder: Path) -> nn.Module:
    """A network without memory for its weights, of whatever size its settings say."""
    try:
        with torch.device("meta"):
            return made_of(settings)
    except RuntimeError as error:
        raise InputError(f"{folder / SETTINGS}: a network too large to be made ({error})") from error


def _require_shapes(network: nn.Module, path: Path) -> None:
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    there = read_shapes(path)
    problems = [f"{name} is missing" for name in expected if name not in there]
    problems += [f"{name} is left over" for name in there if name not in expected]
    problems += [
        f"{name} has shape {list(there[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in there and there[name] != shape
    ]
    if problems:
        raise InputError(f"{path}: the weights are not those of the settings: {'; '.join(problems[:5])}")
