"""The worker's loop with a tiny model, in this process: what it runs when, and what it says."""

import json
from dataclasses import replace
from queue import Queue

import pytest

from analysis.explore.asked import checked_arguments
from analysis.explore.jobs import REPORT
from analysis.explore.session import NAMES, Session
from analysis.explore.settings import PAGE, Settings, state_key
from analysis.explore.worker import Cancelled, Loop, Server
from bilinear_lm.errors import InputError

PROMPT = "Lily saw a big dog"


class Heard(Server):
    """A server that asks for what a test puts into the queue."""

    def __init__(self, folder):
        self.folder, self.jobs, self.said, self.cancel_at = folder, Queue(), [], None

    def ask(self, name, kind, **arguments):
        fitting = {} if kind == REPORT else checked_arguments(kind, arguments)
        result = str(self.folder / f"{name}.result.json")
        return {"do": "run", "id": name, "kind": kind, "arguments": fitting, "result": result}

    def say(self, event, name, **more):
        self.said.append((event, name, more))

    def stop_if_cancelled(self, name):
        if self.cancel_at is not None and any(self.cancel_at in str(said) for said in self.said):
            raise Cancelled

    def of(self, *events):
        return [(event, name) for event, name, _ in self.said if event in events]

    def result(self, name):
        return json.loads((self.folder / f"{name}.result.json").read_text())


@pytest.fixture
def settings(folder, tmp_path):
    return Settings(
        checkpoint=str(folder / "model"),
        dictionaries=str(folder / "scope"),
        contexts=str(folder / "text.txt"),
        names=None,
        features=8,
        first=(1, 7),
        own_names=False,
        device="cpu",
        seed=0,
        state=str(tmp_path),
    )


@pytest.fixture
def heard(tmp_path):
    return Heard(tmp_path)


@pytest.fixture
def loop(heard, settings):
    return Loop(heard, settings.as_json())


def answered(session, kind, arguments):
    return json.loads(json.dumps(session.run(kind, checked_arguments(kind, arguments))))


def test_what_comes_while_the_report_is_made_is_as_if_it_were_not(loop, heard, settings, tmp_path):
    on = {"prompt": PROMPT, "max_nodes": 40}
    heard.jobs.put(heard.ask("graph", "graph", **on))
    heard.jobs.put(heard.ask("bad", "weights", target="7-mlp-out-1"))
    heard.jobs.put(heard.ask("tokens", "tokens", prompt=PROMPT))
    loop.answer(heard.ask("report", REPORT))
    ends = heard.of("done", "failed")
    assert ends == [("done", "graph"), ("failed", "bad"), ("done", "tokens"), ("done", "report")]
    assert heard.of("begun")[:2] == [("begun", "report"), ("begun", "graph")]
    told = {more["what"] for event, name, more in heard.said if (event, name) == ("progress", "report")}
    assert told >= {"starting", "loading the model", "naming the features", "layers", "windows"}
    assert 'id="features"' in (tmp_path / PAGE).read_text()
    alone = Session.open(settings.as_json())
    assert heard.result("graph") == answered(alone, "graph", on)
    assert heard.result("tokens") == answered(alone, "tokens", {"prompt": PROMPT})
    first = heard.result("graph")["graph"]
    (node, *_) = (i for i, kind in enumerate(first["kind"]) if kind == "feature" and first["value"][i])
    changes = [{"node": first["id"][node], "factor": 0}]
    asked = {"prompt": PROMPT, "max_nodes": 40, "changes": changes, "max_tokens": 3}
    loop.answer(heard.ask("changed", "intervene", **asked))
    assert heard.result("changed") == answered(alone, "intervene", asked)
    feature = f"{first['site'][node]}-{first['index'][node]}"
    loop.answer(heard.ask("steered", "steer", prompt=PROMPT, feature=feature, max_tokens=3))
    assert heard.result("steered")["amount"] == 5.0


def test_a_checkpoint_that_is_gone_and_comes_back(loop, heard, folder):
    (folder / "model").rename(folder / "away")
    try:
        loop.answer(heard.ask("first", "tokens", prompt=PROMPT))
    finally:
        (folder / "away").rename(folder / "model")
    ((_, _, more),) = [said for said in heard.said if said[0] == "failed"]
    assert "model: no such" in more["message"]
    loop.answer(heard.ask("again", "tokens", prompt=PROMPT))
    assert heard.of("failed", "done") == [("failed", "first"), ("done", "again")]


def test_names_that_are_damaged_and_a_broken_computation(loop, heard, tmp_path, monkeypatch, capsys):
    for text, says in (("{", "not valid JSON"), ('{"1-mlp-out": 3}', "no names of features; delete it")):
        (tmp_path / NAMES).write_text(text)
        loop.answer(heard.ask("a", "tokens", prompt=PROMPT))
        assert says in heard.said[-1][2]["message"]
    (tmp_path / NAMES).unlink()

    def broken(*arguments, **more):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("analysis.explore.session.next_tokens", broken)
    loop.answer(heard.ask("a", "tokens", prompt=PROMPT))
    assert heard.said[-1][2]["message"] == "the computation failed (RuntimeError: two lines)"
    assert (tmp_path / NAMES).is_file()
    assert "two lines" in capsys.readouterr().err


def test_a_file_of_own_names_that_is_damaged(heard, settings, tmp_path):
    (tmp_path / "own.json").write_text('{"names": 3}')
    loop = Loop(heard, replace(settings, names=str(tmp_path / "own.json")).as_json())
    loop.answer(heard.ask("a", "tokens", prompt=PROMPT))
    event, _, more = heard.said[-1]
    assert event == "failed"
    assert "own.json" in more["message"]


def test_a_job_stops_between_its_steps(loop, heard):
    heard.cancel_at = "stages"
    loop.answer(heard.ask("graph", "graph", prompt=PROMPT))
    assert heard.of("done", "failed", "cancelled") == [("cancelled", "graph")]
    assert not (heard.folder / "graph.result.json").exists()


def test_the_session_takes_bilinear_models_alone(settings, make_model, tiny_tokenizer, tmp_path):
    from bilinear_lm.checkpoints import save_folder

    save_folder(make_model(gate="silu", d_vocab=len(tiny_tokenizer)), tiny_tokenizer, tmp_path / "silu")
    with pytest.raises(InputError, match="silu is not bilinear; convert it"):
        Session.open(replace(settings, checkpoint=str(tmp_path / "silu")).as_json())


def test_states_are_told_apart(settings, folder, tmp_path):
    files = [folder / "model", folder / "scope", folder / "text.txt"]
    key = state_key(settings, files)
    assert state_key(replace(settings, state="elsewhere", device="auto"), files) == key
    assert state_key(replace(settings, features=9), files) != key
    assert state_key(settings, files[:2]) != key
    assert Settings.of_json(json.loads(json.dumps(settings.as_json()))) == settings
    text = (folder / "text.txt").read_text()
    (folder / "text.txt").write_text(text + " ")
    assert state_key(settings, files) != key
    (folder / "text.txt").write_text(text)
