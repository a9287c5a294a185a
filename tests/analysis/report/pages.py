"""Functions that tests of pages share."""

import json
import re
import zlib
from base64 import b64decode

import torch

from analysis.features.dictionaries import LayerDictionaries
from analysis.report.options import STORY
from bilinear_lm import Dictionary, Site
from finetune.data.windows import train_tokenizer
from finetune.pretraining.presets import Preset, new_model

N_FEAT = 40


def watched(tab):
    """All that the tab will say (on its console, in errors and dialogs), and addresses it will ask for."""
    said, requested = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message))
    tab.on("request", lambda request: requested.append(request.url))
    return said, requested


def hostile_model(hostile):
    """A tiny model, its tokenizer with tokens that would be scripts, and dictionaries around its last MLP."""
    tokenizer = train_tokenizer([STORY], 320)
    tokenizer.add_tokens(hostile)
    torch.manual_seed(0)
    preset = Preset(d_model=12, d_mlp=20, n_layers=2, n_heads=2, n_ctx=96, d_vocab=0)
    model = new_model(preset, d_vocab=len(tokenizer)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5).add_(0.1 * torch.randn_like(parameter))
    return model, tokenizer, LayerDictionaries(1, _dictionary("mlp-in", 1), _dictionary("mlp-out", 2))


def _dictionary(point, seed):
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = (torch.randn(*shape, generator=generator) for shape in ((12, N_FEAT), (N_FEAT, 12)))
    return Dictionary(encoder, decoder, activation="topk", k=4, site=Site(1, point))


def whole(index, shards):
    """The data of the features part in one piece, of its index and of shards by name."""
    for layer in index["layers"]:
        for key in ("in", "out"):
            side = layer[key]
            side["id"] = list(range(side["n"])) if side["id"] is None else side["id"]
            side["listed"] = shards[f"{layer['layer']}-{key}-list"]
            side |= {name: side["listed"][name] for name in ("name", "active")}
            for number in range(-(-side["n"] // index["perShard"])):
                for name, column in shards[f"{layer['layer']}-{key}-{number}"].items():
                    side[name] = None if column is None else [*side.get(name, ()), *column]
    return index


def data_of(page):
    """The data of the features part of a page in one file."""
    text = page.split('id="feature-data">')[1]
    shards = re.findall(r'<script type="text/plain" data-shard="([^"]*)">(.*?)</script>', text)
    return whole(
        json.loads(text.split("</script>")[0]), {name: json.loads(unpacked(value)) for name, value in shards}
    )


def unpacked(text):
    """A text that a page carries packed."""
    return zlib.decompress(b64decode(text)).decode()


def data_in(folder):
    """The data of the features part of a report in a folder."""
    shards = {}
    for path in (folder / "data").glob("*-*.js"):
        name, text = re.fullmatch(r"shard\(\"(.*?)\", '(.*)'\);\n", path.read_text(), re.DOTALL).groups()
        assert name == path.stem
        shards[name] = json.loads(re.sub(r"\\(u\w{4}|.)", unescaped, text))
    text = (folder / "index.html").read_text().split('id="feature-data" data-folder="data/">')[1]
    return whole(json.loads(text.split("</script>")[0]), shards)


def unescaped(match):
    """A character that is escaped in a text of JavaScript."""
    return chr(int(match[1][1:], 16)) if len(match[1]) > 1 else match[1]


def drawn(tab):
    """The places of the nodes of a graph that are drawn."""
    nodes = tab.locator("#graph-canvas .node")
    return {int(place) for place in nodes.evaluate_all("all => all.map((node) => node.dataset.place)")}


def node(tab, place):
    """A drawn node of a graph."""
    return tab.locator(f"#graph-canvas .node[data-place='{place}']")
