"""The command as it is used: a server, a worker with a tiny model, and a browser."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from bilinear_lm.checkpoints import save_folder

from ..report.pages import drawn, node, watched
from .conftest import HOSTILE

PROMPT = f"Lily saw {HOSTILE[0]} a {HOSTILE[2]}"
SECONDS = 120


class Served:
    """A server that was started by the command."""

    def __init__(self, *options):
        command = [sys.executable, "-m", "bilinear_lm", "explore", "--no-browser", *map(str, options)]
        started = time.monotonic()
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # other tests run beside
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=one_thread
        )
        self.address = self.process.stdout.readline().strip()
        self.seconds = time.monotonic() - started

    def ask(self, method="GET", path="api/jobs", body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return json.loads(answer.read())

    def add(self, kind, **arguments):
        return self.ask("POST", body={"kind": kind, "arguments": arguments})["id"]

    def ended(self, name):
        end = time.monotonic() + SECONDS
        while (job := self.ask(path=f"api/jobs/{name}"))["state"] in ("queued", "running"):
            assert time.monotonic() < end
            time.sleep(0.05)
        return job

    def result(self, name):
        assert self.ended(name)["message"] == ""
        return self.ask(path=f"api/jobs/{name}/result")

    def wait_for_the_whole(self):
        end = time.monotonic() + SECONDS
        while not self.ask()["whole"]:
            assert time.monotonic() < end
            time.sleep(0.1)

    def workers(self):
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for file in children for child in file.read_text().split()]

    def stop(self, number):
        self.process.send_signal(number)
        status = self.process.wait(timeout=30)
        return status, self.process.stderr.read()


def is_gone(pid):
    path = Path(f"/proc/{pid}/stat")
    try:
        return path.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture(scope="module")
def options(folder, tmp_path_factory):
    return (
        *(folder / "model", "--dictionaries", folder / "scope", "--contexts", folder / "text.txt"),
        *(
            "--features",
            40,
            "--prompt",
            PROMPT,
            "--state",
            tmp_path_factory.mktemp("state"),
            "--device",
            "cpu",
        ),
    )


@pytest.fixture(scope="module")
def served(options):
    if not Path("/proc/self/task").is_dir():
        pytest.skip("needs /proc to look at processes")
    served = Served(*options)
    yield served
    served.process.kill()
    served.process.wait()


def test_the_page_is_there_before_the_model(served, folder):
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", served.address)
    with urllib.request.urlopen(served.address) as answer:
        assert b"What model computes" in answer.read()
    maps = Path(f"/proc/{served.process.pid}/maps").read_text()
    assert "torch" not in maps
    first = served.ask()
    assert [job["kind"] for job in first["jobs"]] == ["graph"]
    graph = served.result(first["jobs"][0]["id"])["graph"]
    assert HOSTILE[0] in "".join(graph["texts"])
    named = [name for kind, name in zip(graph["kind"], graph["label"], strict=True) if kind == "feature"]
    assert named
    assert all(named)
    assert str(folder) not in json.dumps([first, graph])


def test_what_the_model_cannot_do_is_said(served):
    for asked, says in (
        ({"prompt": "a " * 300}, "tokens; expected at most 96, shorten it"),
        ({"prompt": "a", "target": "0-mlp-out-1"}, "there is no dictionary of 0-mlp-out"),
    ):
        job = served.ended(served.add("graph", **asked))
        assert (job["state"], says in job["message"]) == ("failed", True)


def test_the_report_comes(served):
    served.wait_for_the_whole()
    with urllib.request.urlopen(served.address) as answer:
        page = answer.read().decode()
    assert 'id="features"' in page
    assert "connect-src 'self'" in page
    assert served.ask()["report"]["state"] == "done"


def group_of_two(tab):
    """Makes a supernode of two nodes by hand; their places in the graph."""
    features = tab.locator("#graph-canvas .feature")
    places = [int(features.nth(i).get_attribute("data-place")) for i in range(2)]
    for place in places:
        node(tab, place).press("s")
    tab.locator("#graph-group-name").fill("a pair")
    tab.locator("#graph-group-name").press("Enter")
    return places


def test_in_a_browser(served, browser):
    """A graph by hand, a node ablated, a circuit by weights; loaded again, the page shows what it showed."""
    served.wait_for_the_whole()
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    tab = context.new_page()
    tab.set_default_timeout(60_000)
    said, requested = watched(tab)
    tab.goto(served.address)
    tab.locator("#graph-canvas .node").first.wait_for()
    tab.locator("#explore-prompt").fill("Lily saw a big dog")
    tab.locator("#explore-says", has_text="of at most 96 tokens").wait_for()
    offered = tab.locator("#explore-target option")
    assert offered.count() == 14
    tab.locator("#explore-target").select_option(index=2)
    tab.locator("#explore-nodes").fill("40")
    tab.get_by_role("button", name="Trace").click()
    tab.locator("#graph-prompt", has_text="dog").wait_for()
    assert 1 < len(drawn(tab)) <= 40
    tab.locator("#graph-canvas .feature").first.click()
    tab.get_by_role("button", name="Ablate").click()
    tab.locator("#explore-result h3", has_text="ablated").wait_for()
    rows = tab.locator("#explore-result .interactions tbody th").all_inner_texts()
    assert rows[:2] == ["predicted by the graph", "measured in the model"]
    assert tab.evaluate("document.activeElement.id") == "explore-result-title"
    name = tab.locator("#graph-node-title").inner_text()
    assert re.search(r", layer 1 at .* \(\d+\)$", name)
    assert tab.locator("#explore-result h3").inner_text() == f"{name} ablated on “Lily saw a big dog”"
    tab.locator("#explore-jobs li", has_text=f"{name} ablated").wait_for()
    pair = group_of_two(tab)
    tab.locator("#graph-changes").wait_for()
    changes = tab.locator("#graph-changes tbody td").all_inner_texts()
    all_jobs = served.ask()["jobs"]
    ids = served.result([job["id"] for job in all_jobs if job["kind"] == "graph"][-1])["graph"]["id"]
    (job,) = (job for job in all_jobs if job["arguments"].get("max_tokens") == 0)
    asked = [(change["node"], change["factor"]) for change in job["arguments"]["changes"]]
    assert asked == [(ids[place], 0) for place in pair]
    measured = served.result(job["id"])
    numbers = [measured[name] for name in ("predicted", "measured", "predicted_held", "measured_held")]
    shown = [float(text.replace("−", "-")) for text in (*changes[:2], *changes[3:5])]
    assert shown == pytest.approx(numbers, rel=0.006)
    tab.locator("#explore-jobs li", has_text="a pair (2 nodes) ablated, no text, on").wait_for()
    tab.locator("#graph-node").get_by_role("button", name="Scale × 2").click()
    tab.locator("#explore-result h3", has_text="a pair (2 nodes) × 2 on").wait_for()
    n_jobs, shown = len(served.ask()["jobs"]), len(drawn(tab))
    tab.reload()
    tab.locator("#graph-prompt", has_text="dog").wait_for()
    tab.locator("#graph-changes").wait_for()
    assert tab.locator("#graph-changes tbody td").all_inner_texts() == changes
    assert (len(served.ask()["jobs"]), len(drawn(tab))) == (n_jobs, shown)
    tab.locator("#feature").get_by_role("button", name="Circuit by weights").click()
    tab.locator("#explore-jobs li", has_text="by weights").first.wait_for()
    tab.locator("#graph-prompt").wait_for(state="hidden")
    tab.locator("#explore-prompt").fill(" ")
    tab.get_by_role("button", name="Trace").click()
    assert "The prompt is empty" in tab.locator("#explore-says").inner_text()
    tab.evaluate("location.hash = '#circuit-1-mlp-out-3'")  # as links of findings lead there
    tab.locator("#graph-answer", has_text="#3 ").wait_for()
    n_jobs = len(served.ask()["jobs"])
    tab.evaluate("location.hash = '#circuit-1-mlp-out-3'")
    tab.wait_for_function("location.hash.startsWith('#graph=')")
    assert len(served.ask()["jobs"]) == n_jobs
    assert said == []
    assert all(url.startswith(served.address) or url.startswith("data:") for url in requested)
    context.close()


def focused(tab):
    """The id of the element with the focus, and its text."""
    return tab.evaluate("[document.activeElement.id, (document.activeElement.innerText ?? '').trim()]")


def walk(tab, text):
    """Presses Tab until the focus is in a thing whose text begins so."""
    for _ in range(120):
        tab.keyboard.press("Tab")
        if focused(tab)[1].startswith(text):
            return
    raise AssertionError(f"Tab does not lead to {text!r}")


def is_seen(tab, selector):
    """Whether the first element of a selector is in the window as a whole, and under nothing else."""
    return tab.locator(selector).first.evaluate(
        """(element) => {
            const { left, right, top, bottom } = element.getBoundingClientRect();
            const there = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
            return top >= 0 && bottom <= innerHeight && right <= innerWidth && element.contains(there);
        }"""
    )


@pytest.mark.parametrize("size", [(400, 800), (1440, 900)], ids=lambda size: f"{size[0]}")
def test_from_a_feature_to_its_circuit_a_node_its_passages_and_back_by_keyboard(served, browser, size):
    """Keys alone lead on at every step, to what is seen; the address shows the same in another browser."""
    served.wait_for_the_whole()
    shape = {"viewport": {"width": size[0], "height": size[1]}, "reduced_motion": "reduce"}
    context, other = browser.new_context(**shape), browser.new_context(**shape)
    tab, fresh = context.new_page(), other.new_page()
    said, _ = watched(tab)
    said_there, _ = watched(fresh)
    chosen = tab.locator("#graph-canvas .chosen:focus")
    tab.goto(served.address)
    tab.locator("#graph-prompt li").first.wait_for()
    walk(tab, "Features")
    tab.keyboard.press("Enter")
    walk(tab, "Circuit by weights")
    tab.keyboard.press("Enter")
    tab.locator("#graph-prompt").wait_for(state="hidden")
    chosen.wait_for()
    assert is_seen(tab, "#graph-canvas .chosen")
    circuit = tab.locator("#graph-node-title").inner_text()
    lead = tab.get_by_role("link", name="All about this feature")
    for key in ("ArrowDown", "ArrowDown", "Enter"):  # past products, to a feature that one of them reads
        tab.keyboard.press(key)
    assert lead.count()
    title = tab.locator("#graph-node-title").inner_text()
    assert title != circuit
    assert is_seen(tab, "#graph-canvas .chosen")
    tab.keyboard.press("Enter")
    assert focused(tab) == ["graph-node-title", title]
    assert is_seen(tab, "#graph-node-title")
    walk(tab, "All about this feature")
    tab.keyboard.press("Enter")
    tab.locator("#feature-title:focus").wait_for()
    assert title.split(", layer")[0] in focused(tab)[1]
    assert all(is_seen(tab, part) for part in ("#feature-title", "#feature .contexts li"))
    tab.go_back()
    chosen.wait_for()
    assert tab.locator("#graph-node-title").inner_text() == title
    assert is_seen(tab, "#graph-canvas .chosen")
    fresh.goto(tab.url)
    fresh.locator("#graph-prompt").wait_for(state="hidden")
    fresh.locator("#graph-node-title", has_text=title).wait_for(
        state="attached"
    )  # a sheet, in a narrow window
    assert fresh.locator("#graph-status").inner_text() == ""
    tab.go_back()
    tab.locator("#feature-title:focus").wait_for()
    assert said == said_there == []
    context.close()
    other.close()


def test_a_port_and_a_folder_that_are_taken(served, options, tmp_path):
    port = served.address.split(":")[2].split("/")[0]
    for more, says in (
        (["--port", port, "--state", tmp_path], f"port {port} cannot be used"),
        ([], "another explore uses it"),
    ):
        status, said = Served(*options, *more).stop(0)
        assert status == 2
        assert says in said
        assert said.count("\n") == 1


def test_the_end_and_another_start(served, options, until):
    served.wait_for_the_whole()
    (worker,) = served.workers()
    before = [served.ended(job["id"]) for job in served.ask()["jobs"]]
    status, said = served.stop(signal.SIGINT)
    assert (status, said) == (130, "bilinear-lm: interrupted\n")
    until(lambda: is_gone(worker))
    again = Served(*options)
    try:
        after = again.ask()
        assert (after["whole"], after["jobs"]) == (True, before)
        name = again.add("sample", prompt="Lily")
        (worker,) = until(again.workers)
        again.process.kill()  # which it cannot answer
        until(lambda: is_gone(worker))
        assert name
    finally:
        again.process.kill()
        again.process.wait()


def test_options_that_do_not_fit(folder, capsys, monkeypatch, tmp_path):
    from bilinear_lm.cli import main

    model = str(folder / "model")
    for arguments, says in (
        (["no-such-model"], "no such file or folder"),
        ([model, "--port", "70000"], "--port 70000; expected 0"),
        ([model, "--contexts", str(folder / "text.txt")], "--contexts"),
        ([model, "--dictionaries", str(folder / "none")], "no such folder"),
        ([model, "--features", "-1"], "--features -1"),
        ([model, "--state", model + "/config.json"], "choose another folder for --state"),
    ):
        assert main(["explore", *arguments]) == 2
        assert says in capsys.readouterr().err
    monkeypatch.setattr("analysis.commands.explore.find_spec", lambda name: None)
    assert main(["explore", model]) == 2
    assert 'pip install "bilinear-lm[explore]"' in capsys.readouterr().err


def test_a_model_that_is_not_bilinear(make_model, tiny_tokenizer, tmp_path, capsys):
    from bilinear_lm.cli import main

    torch.manual_seed(0)
    save_folder(make_model(gate="silu", d_vocab=len(tiny_tokenizer)), tiny_tokenizer, tmp_path / "silu")
    assert main(["explore", str(tmp_path / "silu")]) == 2
    assert "is not bilinear; convert it" in capsys.readouterr().err
