"""The ids of nodes, in one place: the same node has the same id in every graph.

With a position they end in `@position`; graphs of weights alone leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.graphs.elements import Node
from bilinear_lm.sites import Site


def token_node(token: int, position: int | None = None) -> Node:
    """`token 12 @3`: the embedding of a token."""
    return Node(f"token {token}{_at(position)}", "token", position=position, index=token)


def logit_node(
    tokens: Sequence[int],
    against: Sequence[int] = (),
    position: int | None = None,
    value: float | None = None,
) -> Node:
    """`logit 31 @9`, `logit 31 - 40 @9`, `logit 31 - mean(40, 41) @9`: a logit, or a difference of means."""
    name = _mean(tokens) + (f" - {_mean(against)}" if against else "")
    index = tokens[0] if len(tokens) == 1 and not against else None
    return Node(f"logit {name}{_at(position)}", "logit", position=position, index=index, value=value)


def logit_tokens(node: Node) -> tuple[list[int], list[int]]:
    """The tokens of a logit's node, and those that they are against."""
    name = node.id.removeprefix("logit ")
    if node.position is not None:
        name = name.removesuffix(_at(node.position))
    own, _, against = name.partition(" - ")
    sides = (side.removeprefix("mean(").removesuffix(")") for side in (own, against))
    first, second = ([int(token) for token in side.split(", ") if token] for side in sides)
    return first, second


def feature_node(site: Site, feature: int, position: int | None = None, value: float | None = None) -> Node:
    """`feature 2-mlp-out 17 @5`: a feature of the dictionary of a site."""
    return Node(
        f"feature {site} {feature}{_at(position)}",
        "feature",
        layer=site.layer,
        position=position,
        index=feature,
        site=str(site),
        value=value,
    )


def interaction_node(
    output: Node, inputs: tuple[str, str], label: str = "", value: float | None = None
) -> Node:
    """`interaction 2-mlp-out 17 (3, 9) @5`: two inputs, by short names, at one output of an MLP."""
    name = output.id.removeprefix("feature ")
    if output.position is not None:
        name = name.removesuffix(_at(output.position))
    return Node(
        f"interaction {name} ({', '.join(inputs)}){_at(output.position)}",
        "interaction",
        layer=output.layer,
        position=output.position,
        site=output.site,
        label=label,
        value=value,
    )


def input_name(node: Node) -> str:
    """The short name of an input of an interaction, whose own name tells layer and position."""
    written = node.site is not None and node.site.endswith("out")
    if node.kind == "feature" and node.site is not None and not written:
        return str(node.index)
    if node.kind == "eigenvector":
        return f"eigenvector {node.index}"
    return "error" if node.kind == "error" and node.site and not written else node.id


def eigenvector_node(output: Node, rank: int, value: float | None = None) -> Node:
    """`eigenvector 0 of feature 2-mlp-out 17 @5`: of the interaction matrix of an output, 0 the strongest."""
    return Node(
        f"eigenvector {rank} of {output.id}",
        "eigenvector",
        layer=output.layer,
        position=output.position,
        index=rank,
        value=value,
    )


def direction_node(
    site: Site,
    reader: Node | None = None,
    position: int | None = None,
    value: float | None = None,
) -> Node:
    """`direction 2-mlp-out @5 > logit 31 @9`: what an MLP writes, along the direction that `reader` reads.

    Without a reader `direction 2-mlp-out @5`: all that it writes.
    """
    return Node(
        f"direction {site}{_at(position)}" + ("" if reader is None else f" > {reader.id}"),
        "direction",
        layer=site.layer,
        position=position,
        site=str(site),
        value=value,
    )


def head_node(
    layer: int,
    head: int,
    reader: Node | None = None,
    query: int | None = None,
    key: int | None = None,
    value: float | None = None,
) -> Node:
    """`head 1.3 @5<-2 > logit 31 @9`: what a head moves between two positions, as `reader` reads it.

    Without a reader `head 1.3 @5`: all that a head writes at a position.
    """
    where = _at(query) + ("" if key is None else f"<-{key}")
    return Node(
        f"head {layer}.{head}{where}" + ("" if reader is None else f" > {reader.id}"),
        "head",
        layer=layer,
        position=query,
        index=head,
        key=key,
        value=value,
    )


def score_node(layer: int, head: int, query: int, key: int, value: float | None = None) -> Node:
    """`score 1.3 @5<-2`: an attention score of a head, above the mean of those that its query reads."""
    return Node(
        f"score {layer}.{head} @{query}<-{key}",
        "score",
        layer=layer,
        position=query,
        index=head,
        key=key,
        value=value,
    )


def error_node(site: Site, position: int | None = None) -> Node:
    """`error 2-mlp-in @5`: what the dictionary of a site leaves out."""
    return Node(
        f"error {site}{_at(position)}",
        "error",
        layer=site.layer,
        position=position,
        site=str(site),
    )


def bias_node(name: str, layer: int | None = None) -> Node:
    """`bias 1-mlp-in`: what biases add, which no input changes; `name` says where they are."""
    return Node(f"bias {name}", "bias", layer=layer)


def _at(position: int | None) -> str:
    return "" if position is None else f" @{position}"


def _mean(tokens: Sequence[int]) -> str:
    listed = ", ".join(map(str, tokens))
    return listed if len(tokens) == 1 else f"mean({listed})"
