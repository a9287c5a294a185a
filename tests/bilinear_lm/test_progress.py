"""Steps of long work, told to a function or drawn in the terminal."""

import pytest

from bilinear_lm.progress import listening, tell, tqdm


def test_a_listener_hears_every_step_whether_or_not_a_bar_was_asked_for(capsys):
    heard = []
    with listening(lambda *step: heard.append(step)):
        assert list(tqdm([5, 6], desc="numbers", disable=True)) == [5, 6]
        with tqdm(total=3, desc="by hand") as bar:
            bar.update(2)
            bar.update()
        list(tqdm((n for n in range(1)), desc="of unknown length"))
        tell("by itself")
    assert heard == [
        *(("numbers", 0, 2), ("numbers", 1, 2), ("numbers", 2, 2)),
        *(("by hand", 0, 3), ("by hand", 2, 3), ("by hand", 3, 3)),
        *(("of unknown length", 0, None), ("of unknown length", 1, None)),
        ("by itself", 0, None),
    ]
    assert capsys.readouterr().err == ""


def test_without_a_listener_it_is_a_bar(capsys):
    tell("nobody hears it")
    assert list(tqdm(range(2), desc="quiet", disable=True)) == [0, 1]
    assert capsys.readouterr().err == ""
    assert list(tqdm(range(2), desc="drawn")) == [0, 1]
    with tqdm(total=2, desc="by hand") as bar:
        bar.update(2)
    said = capsys.readouterr().err
    assert "drawn: 100%" in said
    assert "by hand: 100%" in said


def test_what_the_listener_raises_ends_the_work():
    done = []

    def stop(what, n, of):
        if n == 2:
            raise KeyError(what)

    with pytest.raises(KeyError, match="work"), listening(stop):
        done.extend(tqdm(range(9), desc="work"))
    assert done == [0, 1]
    assert list(tqdm(range(1), disable=True)) == [0]
