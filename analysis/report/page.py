"""The report as one HTML page that needs nothing but itself.

First what it has found, then what it can be followed through, then what these rest on.

Whatever comes from a model, a tokenizer or a text is escaped where it enters the page.
"""

from __future__ import annotations

from html import escape
from string import Template

from analysis.report import features_section as features_part
from analysis.report import graphs_section as graphs_part
from analysis.report import perspective
from analysis.report.collect import ReportData
from analysis.report.document import (
    BASE_SCRIPTS,
    SERVED_SCRIPTS,
    SERVED_START,
    SERVED_STYLE,
    document,
    page_file,
)
from analysis.report.findings.cards import findings_section
from analysis.report.glossary import glossary, with_terms
from analysis.report.html import direction_title
from analysis.report.layer_section import anchor, layer_section
from analysis.report.model_section import model_section
from analysis.report.quadratic_section import quadratic_lead


def render(data: ReportData, served: bool = False, files_beside: bool = False) -> str:
    """The page of what `collect` computed; `served` beside a server that answers for the model.

    With `files_beside` the data of features lie in files in the folder `data` beside it.
    """
    found = findings_section(data, served)
    parts = [_header(data), found]
    styles, scripts = ["page.css", "report.css"], list[str]()
    if data.features is not None or data.graphs or served:
        styles.append("features/style.css")
        scripts += BASE_SCRIPTS
    if served:
        styles.append(SERVED_STYLE)
        scripts += SERVED_SCRIPTS
    if data.graphs or served:
        parts.append(graphs_part.graphs_section(data.graphs))
        styles.append("graphs/style.css")
    if data.features is not None:
        parts.append(features_part.features_section(data.features, data.vocabulary, files_beside))
        exact = data.quadratic is None and not data.shape.biases
        parts.append(perspective.perspective_section(data.features, exact_bounds=exact))
        scripts += [*features_part.SCRIPTS, perspective.SCRIPT]
    if data.graphs or served:
        scripts += graphs_part.SCRIPTS
    if served:
        scripts.append(SERVED_START)
    parts += [_summary(data), *(layer_section(data, at) for at in data.layers)]
    parts += [model_section(data), _guide(data)]
    return document(
        f"What {data.name} computes",
        _nav(data, has_findings=bool(found), served=served),
        with_terms("\n".join(parts)),
        styles,
        scripts,
        plotly=data.features is not None,
        served=served,
        files_beside=files_beside,
    )


def _nav(data: ReportData, has_findings: bool, served: bool) -> str:
    sections = {
        "findings": "Findings" if has_findings else None,
        "circuits": "Graphs" if data.graphs or served else None,
        "features": "Features" if data.features is not None else None,
        "perspective": "Low rank in perspective" if data.features is not None else None,
        "summary": "All directions",
    }
    items = [f'<li><a href="#{name}">{text}</a></li>' for name, text in sections.items() if text]
    for at in data.layers:
        directions = ""
        for i, direction in enumerate(reading.direction for reading in at.directions):
            token, more = escape(data.vocabulary.label(direction.token)), " …" if direction.against else ""
            directions += f'<li><a href="#{anchor(at, i)}"><code>{token}</code>{more}</a></li>'
        items.append(f'<li><a href="#layer-{at.layer}">Layer {at.layer}</a><ul>{directions}</ul></li>')
    items.append('<li><a href="#model">The model</a></li><li><a href="#guide">How to read this page</a></li>')
    items.append('<li><a href="#glossary">Glossary</a></li>')
    return f"<ul>{''.join(items)}</ul>"


def _header(data: ReportData) -> str:
    kicker, lead = "A bilinear language model, read from its weights", _lead(data)
    if data.quadratic is not None:
        kicker, lead = "A language model, read through quadratics", quadratic_lead(data.quadratic)
    return (
        f'<header id="top"><p class="kicker">{kicker}</p><h1>What {escape(data.name)} computes</h1>'
        f'<p class="lead">{lead}</p></header>'
    )


def _lead(data: ReportData) -> str:
    shape, size = data.shape, _rounded(data.shape.n_parameters)
    layers = "One layer" if shape.n_layers == 1 else f"{shape.n_layers} layers"
    return (
        f"{layers}, {size} parameters. Its MLPs are <dfn>bilinear</dfn>: they multiply pairs of inputs and "
        "add up the products, so what they compute can be read exactly from the weights."
    )


def _rounded(n: int) -> str:
    """A number of parameters in two or three digits: 2.56 million."""
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if n >= size:
            return f"{n / size:.3g} {name}"
    return f"{n:,}"


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
    return (
        f'<section id="guide"><h2>How to read this page</h2>{guide}</section>'
        f'<section id="glossary"><h2>Glossary</h2>{glossary()}</section>'
    )


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
        '<caption>The <dfn data-term="output-direction">output directions</dfn> on this page: those that '
        "were asked for and the strongest ones of each layer, without any that nearly repeat a stronger one."
        '</caption><thead><tr><th scope="col">Layer</th><th scope="col">Output direction</th>'
        '<th scope="col"><dfn>Strength</dfn></th><th scope="col"><dfn>Effective rank</dfn></th>'
        f'<th scope="col">Top {k} of Σλ²</th></tr></thead><tbody>{rows}</tbody></table></div>'
        f"{_chance(data)}</section>"
    )


def _chance(data: ReportData) -> str:
    """The same numbers of random directions, in a sentence."""
    ranks, shares = (
        sorted(value for at in data.layers for value in getattr(at.random, name).tolist())
        for name in ("effective_rank", "share")
    )
    middle = len(ranks) // 2
    return (
        f'<p class="note">By <dfn>chance</dfn>, over {len(ranks)} random directions: effective rank '
        f"{ranks[middle]:.1f}, top {data.options.n_eigenvectors} of Σλ² {shares[middle]:.0%} (medians).</p>"
    )
