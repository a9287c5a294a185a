"""The section of the page about graphs, and a page of it alone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template

from analysis.graph import Graph
from analysis.page_circuits_data import circuits_json
from analysis.page_document import BASE_SCRIPTS, document, page_file

SCRIPTS = (
    "circuit_data.js",
    "circuit_layout.js",
    "circuit_drawing.js",
    "circuit_node.js",
    "circuit_prompt.js",
    "circuit.js",
)
"""In the order in which they build on each other, behind `BASE_SCRIPTS`."""
STYLES = ("explorer.css", "circuits.css")

_ON_PROMPT = (
    "On a prompt, with attention and the sizes of inner states held at what they are there, contributions "
    "to a number add up to it exactly; what dictionaries miss are <em>errors</em>, which are not followed."
)
_STATIC = "From weights alone, without a prompt, edges are coefficients: what the inputs are multiplied by."


def circuits_section(graphs: Sequence[Graph]) -> str:
    """The section, with a picture that the scripts draw, and the data."""
    kinds = (
        (_ON_PROMPT, [graph.texts is not None for graph in graphs]),
        (_STATIC, [not graph.texts for graph in graphs]),
    )
    about = " ".join(text for text, there in kinds if any(there))
    return Template(page_file("circuits.html")).substitute(about=about, data=circuits_json(graphs))


def circuits_page(graphs: Sequence[Graph], name: str) -> str:
    """A self-contained page about graphs of a model that is called `name`."""
    header = (
        '<header id="model"><p class="kicker">A bilinear language model, followed to what it is made of</p>'
        f"<h1>What {escape(name)} computes</h1></header>"
    )
    return document(
        title=f"Graphs of {name}",
        nav='<ul><li><a href="#circuits">Graphs</a></li></ul>',
        main=header + circuits_section(graphs),
        styles=("report.css", *STYLES),
        scripts=(*BASE_SCRIPTS, *SCRIPTS),
        plotly=False,
    )
