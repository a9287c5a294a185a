"""The files and words of the graphs section, which need no graphs."""

from __future__ import annotations

SCRIPTS = (
    "graphs/data.js",
    "graphs/supernodes.js",
    "graphs/state.js",
    "graphs/address.js",
    "graphs/layout.js",
    "graphs/drawing.js",
    "graphs/picture.js",
    "graphs/edges.js",
    "graphs/node.js",
    "graphs/faith.js",
    "graphs/prompt.js",
    "graphs/grouping.js",
    "graphs/view.js",
    "graphs/main.js",
)
"""In the order in which they build on each other, behind `BASE_SCRIPTS`."""

STYLES = ("features/style.css", "graphs/style.css")

ON_PROMPT = (
    "On a prompt, with attention and the sizes of inner states held at what they are there, contributions "
    "to a number add up to it exactly: the <dfn>weight</dfn> of an edge. What happens when a node changes is "
    "its <dfn>slope</dfn>, in which those sizes are free: how much more there would be of the number with "
    "twice as much of the node, in proportion. Weak products are in the edges of their inputs, half in "
    "either. What dictionaries miss are <em>errors</em>, which are not followed."
)

STATIC = "From weights alone, without a prompt, edges are coefficients: what the inputs are multiplied by."
