"""The contents of a checkpoint folder: its format, and its tensors' names and shapes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bilinear_lm.errors import InputError
from bilinear_lm.files import own_file, read_json, read_shapes, read_tensors, reading

if TYPE_CHECKING:
    from torch import Tensor

Format = Literal["huggingface", "published", "llama2c"]
Shape = tuple[int, ...]

PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_MODEL_SETTINGS = ("config.json", "generation_config.json")
_OPENED_BY_NAME = {
    *(*_MODEL_SETTINGS, "model.safetensors.index.json", "adapter_config.json", "chat_template.jinja"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt"),
}
_PUBLISHED_KEY = re.compile(r"transformer\.h\.\d+\.(attn\.qkv|mlp\.w)\.weight")
_DICTIONARY_KEYS = ({"w_enc.weight"}, {"W_enc", "W_dec"}, {"encoder.weight", "W_dec"})


def detect(path: Path) -> Format:
    """The format of a checkpoint, recognised by its content; raises InputError where none fits."""
    with reading(path):
        if path.is_file():
            _refuse_other_files(path)
            return "llama2c"
        if not any(path.iterdir()):
            raise InputError(f"{path}: an empty folder; expected config.json and model.safetensors")
    require_own_files(path)
    shapes = read_all_shapes(path)
    if any(keys <= shapes.keys() for keys in _DICTIONARY_KEYS):
        raise InputError(f"{path}: a dictionary (SAE), not a language model; load it with load_dictionary")
    config = read_config(path)
    if any(_PUBLISHED_KEY.fullmatch(key) for key in shapes) or is_published_config(config):
        return "published"
    return "huggingface"


def is_published_config(config: dict[str, Any]) -> bool:
    """Whether a config.json has the authors' keys, which no Hugging Face configuration has together."""
    return {"n_layer", "n_head", "d_model", "d_hidden"} <= config.keys()


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: holds weights but no config.json; a model cannot be built without it")
    return read_json(folder / "config.json")


def require_own_files(folder: Path) -> None:
    """Raises InputError where a file that transformers will open by name is a link out of the folder."""
    with reading(folder):
        names = sorted(path.name for path in folder.iterdir())
    for name in names:
        if name in _OPENED_BY_NAME or name.endswith((".safetensors", ".model")):
            own_file(folder, name)
    for name in _MODEL_SETTINGS:
        if name in names:
            read_json(folder / name)


def read_all_shapes(folder: Path) -> dict[str, Shape]:
    """Name → shape of every tensor of a folder, from the headers of its safetensors files."""
    return {name: shape for file in weight_files(folder) for name, shape in read_shapes(file).items()}


def read_tensor(folder: Path, name: str) -> Tensor:
    """One tensor of a folder, in the precision of its file."""
    for file in weight_files(folder):
        if name in read_shapes(file):
            return read_tensors(file, [name])[name]
    raise InputError(f"{folder}: no tensor {name} in its weights; expected one")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: the single one, or the shards that its index names."""
    if (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder}: an adapter, not a model; merge it into its base model and save that")
    name = _weights_name(folder)
    if name is not None and name.endswith(".safetensors"):
        return [own_file(folder, name)]
    if name is not None:
        index = own_file(folder, name)
        weight_map = read_json(index).get("weight_map")
        names = list(weight_map.values()) if isinstance(weight_map, dict) else []
        if not names or not all(isinstance(name, str) for name in names):
            raise InputError(f"{index}: names no weights; expected a weight_map from tensors to files")
        return [own_file(folder, name) for name in sorted(set(names))]
    dictionary = [folder / name for name in ("sae_weights.safetensors", "sae.safetensors")]
    if any(file.is_file() for file in dictionary):
        return [file for file in dictionary if file.is_file()]
    raise InputError(_without_weights(folder))


def _weights_name(folder: Path) -> str | None:
    """The file of weights, or of their index, that transformers takes; None where there is none."""
    if (folder / "config.json").is_file():
        named = read_json(folder / "config.json").get("transformers_weights")
        if named is not None:
            if not isinstance(named, str) or not named.endswith((".safetensors", ".safetensors.index.json")):
                raise InputError(
                    f"{folder / 'config.json'}: transformers_weights is {named!r}; expected the name of a "
                    "safetensors file or of an index of such files"
                )
            return named
    standard = ("model.safetensors", "model.safetensors.index.json")
    return next((name for name in standard if (folder / name).is_file()), None)


def _without_weights(folder: Path) -> str:
    bins = sorted(file.name for file in folder.glob("*.bin") if not file.name.startswith("tok"))
    pickles = [name for name in bins if name.startswith("pytorch_model")]
    pickles += sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        return f"{folder / pickles[0]}: {_PICKLE}"
    if bins and not (folder / "config.json").is_file():
        return f"{folder}: no config.json; to load a llama2.c file give its own path, {folder / bins[0]}"
    return f"{folder}: no model.safetensors; expected the weights beside config.json"


_PICKLE = (
    "a pickle, which is never read because it can run code; load it once with transformers where you "
    "trust it and save it again with save_pretrained(folder), which writes safetensors"
)


def _refuse_other_files(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(2)
    # torch.save writes a zip archive ("PK"), before torch 1.6 a bare pickle (0x80 and the protocol).
    if path.suffix in PICKLES or start == b"PK" or (start[:1] == b"\x80" and path.stem == "pytorch_model"):
        raise InputError(f"{path}: {_PICKLE}")
    if path.suffix != ".bin":
        raise InputError(
            f"{path}: not a checkpoint; expected a folder with config.json, or a llama2.c .bin file"
        )
