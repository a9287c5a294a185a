"""What is called in a child of the server: loaders used to the end, and checks of what commands wrote.

A loader that accepts a file must give finite numbers; `Wrong` is raised where it does not.
"""

import base64
import json
import zlib
from html.parser import HTMLParser
from pathlib import Path

import torch


class Wrong(AssertionError):
    """Accepted, and yet of no use."""


def require_finite(what, *tensors):
    for tensor in tensors:
        if not torch.isfinite(tensor).all():
            raise Wrong(f"{what}: not finite")


def strict_json(text):
    def refuse(constant):
        raise Wrong(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)


def model(path):
    """`load_pretrained`, and a forward pass."""
    from bilinear_lm import load_pretrained

    _forward(load_pretrained(path), path)


def _forward(loaded, path):
    ids = torch.arange(8)[None] % loaded.config.vocab_size
    with torch.inference_mode():
        require_finite(f"logits of {path}", loaded(input_ids=ids).logits)


def info(path):
    from bilinear_lm.checkpoints import checkpoint_info

    checkpoint_info(path)


def tokenizer(path):
    """`load_tokenizer`, there and back."""
    from bilinear_lm.checkpoints import load_tokenizer

    loaded = load_tokenizer(path)
    loaded.decode(loaded("A cat saw a dog")["input_ids"])


def dictionary(path):
    """`load_dictionary`, and what it makes of a few points."""
    from bilinear_lm import load_dictionary

    loaded = load_dictionary(path)
    points = torch.randn(4, loaded.d_in, generator=torch.Generator().manual_seed(0))
    require_finite(f"codes of {path}", loaded.encode(points), loaded(points))


def graph(path):
    from analysis import load_graph, summary

    loaded = load_graph(path)
    summary(loaded)


def decomposition(path):
    from analysis import load_decomposition

    loaded = load_decomposition(Path(path))
    require_finite(path, loaded.values, loaded.vectors, loaded.residuals, loaded.gap)


# What commands wrote


def check(kind, path):
    """Reads an output as its users do."""
    CHECKS[kind](Path(path))


def _model_folder(path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded, loading = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    if any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise Wrong(f"{path}: {loading}")
    _forward(loaded.float(), path)
    for record in path.glob("*.json"):
        strict_json(record.read_text())
    if (path / "tokenizer.json").exists():
        AutoTokenizer.from_pretrained(path)("A cat")


def _text(path):
    path.read_text(encoding="utf-8")


def _files(path):
    """JSON without NaN and finite tensors, whatever files there are."""
    from safetensors.torch import load_file

    if not any(path.iterdir()):
        raise Wrong(f"{path}: empty")
    for file in path.rglob("*"):
        if file.suffix == ".json":
            strict_json(file.read_text())
        if file.suffix == ".safetensors":
            require_finite(file, *(value.float() for value in load_file(file).values()))
        if file.suffix == ".png" and not file.read_bytes().endswith(b"IEND\xaeB`\x82"):
            raise Wrong(f"{file}: cut off")


def _eigen_folder(path):
    _files(path)
    decomposition(path)


def _partial_eigen_folder(path):
    """A folder of a run that was killed: whole parts, the first of them."""
    from analysis import load_decomposition

    if any(part.suffix == ".safetensors" for part in path.iterdir()):
        loaded = load_decomposition(path, partial=True)
        require_finite(path, loaded.values, loaded.vectors)


def _dictionary_folders(path):
    _files(path)
    for folder in path.iterdir():
        dictionary(folder)


def _graph_file(path):
    strict_json(path.read_text())
    graph(path)


class _Page(HTMLParser):
    """Collects the tags that end and the scripts of JSON, packed or not."""

    def __init__(self):
        super().__init__()
        self.ended, self.json, self.reading = [], [], None

    def handle_starttag(self, tag, attrs):
        self.reading = None
        if tag == "script" and ("type", "application/json") in attrs:
            self.reading = self.json.append
        elif tag == "script" and "data-shard" in dict(attrs):
            self.reading = self._unpack

    def handle_endtag(self, tag):
        self.ended.append(tag)
        self.reading = None

    def handle_data(self, data):
        if self.reading:
            self.reading(data)

    def _unpack(self, data):
        self.json.append(zlib.decompress(base64.b64decode(data, validate=True)).decode())


def _page(path):
    """A page in one file, or in a folder with its data."""
    if path.is_dir():
        _shards(path)
        path /= "index.html"
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    if page.ended[-1:] != ["html"]:
        raise Wrong(f"{path}: does not end")
    for data in page.json:
        strict_json(data)


def _shards(path):
    for file in (path / "data").glob("[!.]*-*.js"):
        text = file.read_text(encoding="utf-8")
        if not (text.startswith(f'shard("{file.stem}", \'{{') and text.endswith("}');\n")):
            raise Wrong(f"{file}: no shard")


def _partial_report_folder(path):
    """A page that is being written: the layers that are said to be done are there."""
    _shards(path)
    manifest = strict_json((path / "report.json").read_text())
    if manifest["finished"]:
        return _page(path)
    for layer in manifest["layers"]:
        for part in (f"data/{layer}-in-list.js", f"data/{layer}-out-0.js", f"parts/{layer}.json"):
            if not (path / part).is_file():
                raise Wrong(f"{path}: layer {layer} is done, without {part}")


CHECKS = {
    "model": _model_folder,
    "text": _text,
    "files": _files,
    "eigen": _eigen_folder,
    "partial": _partial_eigen_folder,
    "dictionaries": _dictionary_folders,
    "graph": _graph_file,
    "page": _page,
    "partial-report": _partial_report_folder,
}
