"""Tables that commands print."""

from bilinear_lm.commands.table import table


def test_numbers_stand_at_the_right_and_words_at_the_left():
    rows = [("sad", "+0.25", "12.0%"), ("a longer word", "-10.5", "3.1%")]
    assert table(("direction", "λ1", "share"), rows, "x.json").splitlines() == [
        "direction         λ1  share",
        "sad            +0.25  12.0%",
        "a longer word  -10.5   3.1%",
    ]


def test_numbers_may_be_small_or_none():
    rows = [("1.25e-05",), ("−3",), ("nan",), ("1,024",)]
    assert table(("value",), rows, "x.json").splitlines() == [
        "   value",
        "1.25e-05",
        "      −3",
        "     nan",
        "   1,024",
    ]


def test_the_rest_is_counted():
    lines = table(("n",), [(str(i),) for i in range(1025)], "x.json").splitlines()
    assert len(lines) == 22
    assert lines[-1] == "1,005 more are in x.json"
    assert table(("n",), [(str(i),) for i in range(20)], "x.json", 1025).splitlines() == lines


def test_no_rows():
    assert table(("n", "m"), [], "x.json") == "n  m"
