"""Jobs and the worker that runs them: deaths, cancelling, what outlives a restart."""

import json
import os
import signal

import pytest

from analysis.explore.jobs import KEPT, QUEUE, REPORT, Jobs, QueueFull
from analysis.explore.runner import Runner


@pytest.fixture
def ask(runner):
    def add(prompt, kind="tokens"):
        jobs = runner.jobs
        job = jobs.add_report() if kind == REPORT else jobs.add(kind, {"prompt": prompt})
        runner.wake()
        return job.id

    return add


@pytest.fixture
def state(runner):
    return lambda name: runner.jobs.get(name).state


def test_jobs_are_done_in_turn_and_results_lie_in_files(runner, ask, state, until):
    names = [ask(f"a {i}") for i in range(3)]
    until(lambda: all(state(name) == "done" for name in names))
    for i, name in enumerate(names):
        assert json.loads(runner.jobs.result(name).read_text()) == {"echo": {"prompt": f"a {i}", "k": 12}}


def test_a_job_that_fails_says_why(runner, ask, state, until):
    name = ask("fail")
    until(lambda: state(name) == "failed")
    assert runner.jobs.get(name).message == "this cannot be done"


def test_a_worker_that_is_killed_is_started_again_and_its_job_run_once_more(runner, ask, state, until):
    waiting, behind = ask("wait", "graph"), ask("behind", "graph")
    until(lambda: (runner.jobs.shown(runner.jobs.get(waiting))["progress"] or {}).get("what"))
    first = runner.worker.process.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: runner.jobs.get(waiting).deaths == 1 and state(waiting) == "running")
    assert runner.worker.process.pid != first
    assert state(behind) == "queued"
    runner.cancel(waiting)
    until(lambda: state(behind) == "done")
    assert state(waiting) == "cancelled"


def test_a_job_at_which_two_workers_die_has_failed(runner, ask, state, until):
    deadly, once, other = ask("die", "graph"), ask("die once", "graph"), ask("other", "graph")
    until(lambda: state(other) == "done")
    assert state(deadly) == "failed"
    assert "ended by SIGKILL, twice, while it was at this job" in runner.jobs.get(deadly).message
    assert (state(once), runner.jobs.get(once).deaths) == ("done", 1)


def test_cancelling(runner, ask, state, until):
    """A job that waits ends at once; one that runs when it hears; one that does not hear with the worker."""
    running, queued = ask("wait", "graph"), ask("queued", "graph")
    until(lambda: state(running) == "running")
    runner.cancel(queued)
    until(lambda: state(queued) == "cancelled")
    runner.cancel(running)
    until(lambda: state(running) == "cancelled")
    first = runner.worker.process.pid
    deaf, after = ask("deaf", "graph"), ask("after", "graph")
    until(lambda: state(deaf) == "running")
    runner.cancel(deaf)
    until(lambda: state(after) == "done")
    assert (state(deaf), runner.jobs.get(deaf).deaths) == ("cancelled", 0)
    assert runner.worker.process.pid != first


def test_the_report_keeps_nobody_waiting_and_bears_no_blame(runner, ask, state, until):
    report, asked = ask("", REPORT), ask("asked", "graph")
    until(lambda: state(asked) == "done")
    assert state(report) == "running"
    deadly = ask("die", "graph")
    until(lambda: state(deadly) == "failed")
    until(lambda: state(report) == "running")
    assert runner.jobs.get(report).deaths == 0
    assert report not in [job.id for job in runner.jobs.all() if job.kind != REPORT]


def test_what_had_not_ended_is_done_after_a_restart(make_runner, tmp_path, until):
    runner = make_runner(tmp_path)
    done, cut = (runner.jobs.add("graph", {"prompt": prompt}).id for prompt in ("a", "wait"))
    runner.wake()
    until(lambda: runner.jobs.get(cut).state == "running")
    runner.stop()
    (tmp_path / f"{'0' * 16}.json").write_text("{")
    (tmp_path / "note.json").write_text('{"id": "note"}')
    record = json.loads((tmp_path / f"{done}.json").read_text())
    (tmp_path / f"{'1' * 16}.json").write_text(json.dumps({**record, "kind": "other", "id": "1" * 16}))
    again = Jobs(tmp_path)
    assert {job.id: job.state for job in again.all()} == {done: "done", cut: "queued"}
    assert again.result(done).is_file()
    assert again.next().id == cut


def test_a_worker_that_cannot_be_started(make_runner, tmp_path, until):
    runner = make_runner(tmp_path, ["/no/such/program"])
    name = runner.jobs.add("graph", {"prompt": "a"}).id
    runner.wake()
    until(lambda: runner.jobs.get(name).state == "failed")
    assert "the worker cannot be started" in runner.jobs.get(name).message


def test_jobs_are_bounded(tmp_path):
    jobs = Jobs(tmp_path)
    for i in range(QUEUE):
        jobs.add("tokens" if i % 2 else "graph", {"prompt": f"{i}"})
    with pytest.raises(QueueFull, match=f"{QUEUE} jobs wait already"):
        jobs.add("graph", {"prompt": "one more"})
    assert [jobs.next().kind, jobs.next().number] == ["tokens", 2]
    for job in jobs.all():
        jobs.change(job.id, state="done")
        jobs.result(job.id).write_text("{}")
    first_tokens, first_graph = jobs.all()[1].id, jobs.all()[0].id
    for _ in range(KEPT - QUEUE + 1):
        jobs.change(jobs.add("graph", {"prompt": "a"}).id, state="done")
    assert len(jobs.all()) == KEPT
    assert jobs.get(first_tokens) is None
    assert not jobs.result(first_tokens).exists()
    assert jobs.get(first_graph) is not None


def test_a_runner_without_work_stops(tmp_path):
    runner = Runner(Jobs(tmp_path), ["/no/such/program"])
    runner.stop()
