"""Jobs that can be asked for, and those that are refused in one line."""

import pytest

from analysis.explore.asked import checked_arguments
from bilinear_lm.errors import InputError


def test_what_is_left_out_has_a_default():
    changes = [
        {"node": "a", "name": "what a is", "factor": 0},
        {"node": "b", "value": 1.5},
        {"node": "c", "patch": "on this"},
    ]
    assert checked_arguments("intervene", {"prompt": "a b", "changes": changes, "max_nodes": 9}) == {
        **{"prompt": "a b", "target": None, "max_nodes": 9, "changes": changes},
        **{"max_tokens": 40, "temperature": 0.0, "seed": 0},
    }


@pytest.mark.parametrize(
    ("kind", "arguments", "says"),
    [
        ("report", {}, "kind 'report'"),
        (["graph"], {}, "kind"),
        ("graph", [], "expected an object"),
        ("graph", {"prompt": "a", "colour": 1}, "unknown 'colour'"),
        ("graph", {}, "the prompt is empty"),
        ("graph", {"prompt": " \n"}, "the prompt is empty"),
        ("graph", {"prompt": 3}, "expected a text"),
        ("graph", {"prompt": "a" * 30_000}, "30,000 characters"),
        ("graph", {"prompt": "\ud800"}, "half of a character"),
        ("graph", {"prompt": "a", "target": True}, "target True"),
        ("graph", {"prompt": "a", "target": ""}, "target ''"),
        ("graph", {"prompt": "a", "max_nodes": 10**6}, "from 2 to 1000"),
        ("graph", {"prompt": "a", "max_nodes": True}, "from 2 to 1000"),
        ("weights", {}, "no target"),
        ("intervene", {"prompt": "a"}, "a list of 1 to 200"),
        ("intervene", {"prompt": "a", "changes": [{}]}, "a node, by its id"),
        ("intervene", {"prompt": "a", "changes": [{"node": "b"}]}, "one of factor, value, patch"),
        ("intervene", {"prompt": "a", "changes": [{"node": "b", "factor": 0, "value": 1}]}, "one of factor"),
        ("intervene", {"prompt": "a", "changes": [{"node": "b", "factor": float("nan")}]}, "factor=nan"),
        ("intervene", {"prompt": "a", "changes": [{"node": "b", "name": "", "factor": 0}]}, "name ''"),
        (
            "intervene",
            {"prompt": "a", "changes": [{"node": "b", "name": ["c"], "factor": 0}]},
            "a text of at",
        ),
        ("steer", {"prompt": "a"}, "expected LAYER-POINT-NUMBER"),
        ("steer", {"prompt": "a", "feature": "../1-mlp-out-2"}, "expected LAYER-POINT-NUMBER"),
        ("sample", {"prompt": "a", "temperature": -1}, "temperature=-1"),
    ],
)
def test_what_is_not_taken(kind, arguments, says):
    with pytest.raises(InputError, match=says):
        checked_arguments(kind, arguments)
