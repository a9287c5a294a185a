"""What results print: a few lines, whatever they hold."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import bilinear_lm as bl
from analysis import (
    attribute,
    causal_check,
    dictionaries_in,
    eigendecompose,
    feature_layer,
    hosvd,
    measure,
    open_prompt,
    static_circuit,
    strongest_interactions,
    token_windows,
    top_contexts,
)
from bilinear_lm.shipped import SHIPPED
from bilinear_lm.shown import brief, shown

LONG = "a text that goes on " * 10


@shown
@dataclass(frozen=True)
class Result:
    values: Any
    name: Any = None


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (torch.ones(300), "float32[300]"),
        (torch.ones(2, 3, dtype=torch.int64), "int64[2, 3]"),
        (torch.tensor(1 / 3), "0.3333"),
        (torch.tensor(7), "7"),
        (np.ones((2, 2)), "float64[2, 2]"),
        (1 / 3, "0.3333"),
        (True, "True"),
        (LONG, repr(LONG[:57] + "...")),
        ((1, 2), "(1, 2)"),
        ((1,), "(1,)"),
        (tuple(range(100)), "100 int"),
        ([torch.ones(3)] * 9, "9 Tensor"),
        ({}, "{}"),
        ({"a": 1}, "{a: 1}"),
        ({n: torch.ones(3) for n in range(9)}, "9 by int"),
        (bl.Site(2, "mlp-out"), "2-mlp-out"),
        (torch.nn.Linear(2, 2), "Linear"),
        (Result(torch.ones(3)), "Result"),
    ],
)
def test_values_in_a_few_words(value, told):
    assert brief(value) == told


def test_a_class_on_one_line_or_on_some():
    assert repr(Result(torch.ones(3))) == "Result(values=float32[3])"
    assert repr(Result(LONG, LONG)) == f"Result(\n    values={brief(LONG)},\n    name={brief(LONG)},\n)"


def test_results_are_told_in_a_few_lines():
    model, tokenizer = bl.load_pretrained("stories"), bl.load_tokenizer("stories")
    scope, tensor = dictionaries_in(SHIPPED / "stories-scope", model), bl.mlp_tensor(model, 3)
    inputs, outputs = scope[bl.Site(3, "mlp-in")], scope[bl.Site(3, "mlp-out")]
    prompt = open_prompt(model, "Her mom gave her a big", scope, tokenizer=tokenizer)
    found = attribute(prompt, " hug", max_nodes=60)
    windows = token_windows(tokenizer, "Once there was a girl. She had a big red ball.", 64)
    layer = feature_layer(model, 3, inputs, outputs)
    told = {
        "eigen": eigendecompose(tensor, torch.ones(tensor.d_out)),
        "hosvd": hosvd(tensor, 4),
        "interactions": strongest_interactions(layer, [540], k=5),
        "contexts": top_contexts(model, outputs, windows, k=2, tokenizer=tokenizer),
        "measured": measure(model, [1, 2, 3]),
        "check": causal_check(model, found, n=2, controls=1),
        **{
            "tensor": tensor,
            "dictionary": inputs,
            "layer": layer,
            "prompt": prompt,
            "vocabulary": prompt.vocabulary,
        },
        **{
            "attribution": found,
            "graph": found.graph,
            "circuit": static_circuit(model, " hug", tokenizer=tokenizer),
        },
    }
    for name, value in told.items():
        text = repr(value)
        assert text.startswith(type(value).__name__), name
        assert len(text) < 500, (name, text)
        assert text.count("\n") < 8, (name, text)
    assert "target=␣hug [logit 691 @6] = 8.83" in repr(found.graph)
    assert f"nodes={len(found.graph)} (" in repr(found.graph)
    assert 50 < len(found.graph) <= 60
    assert "from weights alone" in repr(told["circuit"])
    assert "540 from (191, 538): +0.1" in repr(told["interactions"])
