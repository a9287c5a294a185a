"""What tests of pages in a browser share."""

import torch

from analysis.features.dictionaries import LayerDictionaries
from analysis.report.options import STORY
from bilinear_lm import Dictionary, Site
from finetune.data.windows import train_tokenizer
from finetune.pretraining.presets import Preset, new_model

N_FEAT = 40


def watched(tab):
    """What the tab will say (on its console, in errors and dialogs), and which addresses it will ask for."""
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


def drawn(tab):
    """The places of the nodes of a graph that are drawn."""
    nodes = tab.locator("#graph-canvas .node")
    return {int(place) for place in nodes.evaluate_all("all => all.map((node) => node.dataset.place)")}


def node(tab, place):
    """A drawn node of a graph."""
    return tab.locator(f"#graph-canvas .node[data-place='{place}']")
