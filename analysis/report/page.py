"""The report as one HTML page that needs nothing but itself.

Whatever comes from a model, a tokenizer or a text is escaped where it enters the page.
"""

from __future__ import annotations

import math
from html import escape
from string import Template

from analysis.report import features_section as features_part
from analysis.report import graphs_section as graphs_part
from analysis.report.collect import ReportData
from analysis.report.document import SERVED_SCRIPTS, SERVED_START, SERVED_STYLE
from analysis.report.html import BASE_SCRIPTS, direction_title, document, numbers, page_file
from analysis.report.layer_section import anchor, layer_section
from analysis.report.quadratic_section import quadratic_section
from analysis.text.vocabulary import visible


def render(data: ReportData, served: bool = False) -> str:
    """The page of what `collect` computed; `served` beside a server that answers for the model."""
    parts = [_header(data), _guide(data)]
    styles, scripts = ["page.css"], ["page.js"]
    if data.features is not None or data.graphs or served:
        styles.append("features/style.css")
        scripts += BASE_SCRIPTS
    if served:
        styles.append(SERVED_STYLE)
        scripts += SERVED_SCRIPTS
    if data.features is not None:
        parts.append(features_part.features_section(data.features, data.vocabulary))
        scripts += features_part.SCRIPTS
    if data.graphs or served:
        parts.append(graphs_part.graphs_section(data.graphs))
        styles.append("graphs/style.css")
        scripts += graphs_part.SCRIPTS
    if served:
        scripts.append(SERVED_START)
    parts += [_summary(data), *(layer_section(data, at) for at in data.layers)]
    title = f"What {data.name} computes"
    return document(title, _nav(data, served), "\n".join(parts), styles, scripts, served=served)


def _nav(data: ReportData, served: bool) -> str:
    layers = []
    for at in data.layers:
        directions = ""
        for i, direction in enumerate(reading.direction for reading in at.directions):
            token, more = escape(data.vocabulary.label(direction.token)), " …" if direction.against else ""
            directions += f'<li><a href="#{anchor(at, i)}"><code>{token}</code>{more}</a></li>'
        layers.append(f'<li><a href="#layer-{at.layer}">Layer {at.layer}</a><ul>{directions}</ul></li>')
    features = "" if data.features is None else '<li><a href="#features">Features</a></li>'
    features += '<li><a href="#circuits">Graphs</a></li>' if data.graphs or served else ""
    return (
        '<ul><li><a href="#model">The model</a></li><li><a href="#guide">How to read this page</a></li>'
        f'{features}<li><a href="#summary">All directions</a></li>{"".join(layers)}</ul>'
    )


def _header(data: ReportData) -> str:
    kicker = "A bilinear language model, read from its weights"
    lead = page_file("introduction.html")
    if data.quadratic is not None:
        kicker, lead = "A language model, read through quadratics", quadratic_section(data.quadratic)
    return (
        f'<header id="model"><p class="kicker">{kicker}</p>'
        f"<h1>What {escape(data.name)} computes</h1>{lead}{_loss(data)}"
        f'<div class="about">{_shape_table(data)}{_sample(data)}</div></header>'
    )


def _shape_table(data: ReportData) -> str:
    shape = data.shape
    rows = {
        "layers": f"{shape.n_layers}",
        "attention heads in each": f"{shape.n_heads}",
        "width (d_model)": f"{shape.d_model:,}",
        "hidden units of an MLP (d_mlp)": f"{shape.d_mlp:,}",
        "tokens in the vocabulary": f"{shape.d_vocab:,}",
        "tokens seen at once": f"{shape.n_ctx:,}",
        "parameters": f"{shape.n_parameters:,}",
        "norms": "RMS" if shape.norms else "none",
        "MLP biases": "yes" if shape.biases else "no",
    }
    cells = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in rows.items())
    return f'<table class="shape"><caption>The shape of the model.</caption><tbody>{cells}</tbody></table>'


def _loss(data: ReportData) -> str:
    if data.loss is None:
        return (
            '<p class="note">There is no loss here: it takes a beginning-of-sequence token, and this '
            "tokenizer has none.</p>"
        )
    where = "of the text below" if data.options.evaluation_text is None else "of text"
    facts = numbers(
        [
            ("loss, nats per token", f"{data.loss.nats_per_token:.3f}"),
            ("perplexity per token", f"{math.exp(data.loss.nats_per_token):.2f}"),
            ("bits per byte", f"{data.loss.bits_per_byte:.3f}"),
        ]
    )
    return (
        f'{facts}<p class="note">How well the model predicts {data.loss.n_tokens:,} tokens {where}; lower is '
        "better.</p>"
    )


def _sample(data: ReportData) -> str:
    if data.sample is None:
        return ""
    prompt = data.options.prompt if data.sample.startswith(data.options.prompt) else ""
    begin, rest = (escape(visible(part, keep=" \n")) for part in (prompt, data.sample[len(prompt) :]))
    return (
        f"<figure><blockquote><b>{begin}</b>{rest}</blockquote><figcaption>What the model wrote when "
        "asked to go on after the words in bold (temperature "
        f"{data.options.temperature:g}).</figcaption></figure>"
    )


def _guide(data: ReportData) -> str:
    text = "The token that marks the beginning is not shown." if data.has_first else ""
    if data.n_left_out:
        text += f" It was longer than the model's context: its last {data.n_left_out:,} tokens are left out."
    norms = ""
    if data.shape.norms:
        norms = (
            "The norm in front of a layer divides its input by its size; weights alone do not know that "
            "number, so scores compare tokens within one reading."
        )
    after = ""
    if data.shape.norm_after:
        after = (
            "This model has a norm behind each MLP too: directions are read at the MLP's output, in front of "
            "that norm."
        )
    guide = Template(page_file("guide.html")).substitute(norms=norms, after=after, text=text)
    return f'<section id="guide"><h2>How to read this page</h2>{guide}</section>'


def _summary(data: ReportData) -> str:
    k = data.options.n_eigenvectors
    rows = "".join(
        f'<tr><td>{at.layer}</td><th scope="row"><a href="#{anchor(at, i)}">'
        f"{direction_title(reading.direction, data.vocabulary)}</a></th><td>{reading.strength:.3g}</td>"
        f"<td>{reading.effective_rank:.1f}</td><td>{reading.share(k):.0%}</td></tr>"
        for at in data.layers
        for i, reading in enumerate(at.directions)
    )
    return (
        '<section id="summary"><h2>All directions</h2><div class="scroll"><table class="summary">'
        "<caption>The output directions on this page: those that were asked for and the strongest ones of "
        "each layer, without any that nearly repeat a stronger one.</caption><thead><tr>"
        '<th scope="col">Layer</th><th scope="col">Output direction</th><th scope="col">Strength</th>'
        f'<th scope="col">Effective rank</th><th scope="col">Top {k} of Σλ²</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )
