"""JSON in script elements: nothing can end them, and it is read as what was written."""

import json
import math

import pytest

from analysis.report.document import script_json, script_safe
from analysis.report.html import rounded


def test_no_text_ends_the_script_element():
    value = {"</script>": ["<!--", "a < b", "é ⏎"], "n": [1, 2.5, None]}
    written = script_json(value)
    assert "<" not in written
    assert written.startswith('{"\\u003c/script>":["\\u003c!--",')
    assert json.loads(written) == value
    assert script_safe(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) == written


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json([value])
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json([rounded(value, 3)])


@pytest.mark.parametrize(
    ("value", "digits", "written"),
    [(0.123456, 3, "0.123"), (0.123456, 4, "0.1235"), (2.0, 3, "2"), (-12345.6, 3, "-12300"), (0.0, 4, "0")],
)
def test_numbers_are_written_shortly(value, digits, written):
    assert script_json(rounded(value, digits)) == written
