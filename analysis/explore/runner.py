"""The worker as the server sees it: a process that runs one job at a time, and is started again if it dies.

Server and worker exchange lines of JSON over the worker's input and output. The server says

    {"do": "run", "id", "kind", "arguments", "result"}      result: the file to write
    {"do": "cancel", "id"}

and the worker, for each job, "begun" when it turns to it, any number of {"event": "progress", "id", "what",
"done", "of"}, and then one of "done", "failed" (with a message) and "cancelled". The report is run beside:
the worker has one at most, and turns to other jobs between its steps. A worker whose input ends, ends.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from queue import Empty, Queue
from threading import Thread
from typing import Any

from analysis.explore.jobs import REPORT, Job, Jobs

DEATHS = 2
"""A job that so many workers ended at has failed."""

PATIENCE = 5.0
"""Seconds in which a worker stops at a job that was cancelled; then it is killed."""

LONGEST_LINE = 1 << 20
"""Bytes of a line from the worker; one that is longer is not ours."""


class Worker:
    """A process, and what it says."""

    def __init__(self, command: list[str], say: Callable[[Worker, dict[str, Any] | None], None]):
        """Start it; `say` gets what it says, from another thread, and None when it has ended."""
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C in the terminal is for the server, which ends the worker.
            start_new_session=True,
        )
        self._listener = Thread(target=self._listen, args=(say,), daemon=True)
        self._listener.start()

    def tell(self, **message: Any) -> None:
        """Says something to it; a worker that has ended does not hear it."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass

    def kill(self) -> None:
        """Ends it at once, and waits for that."""
        self.process.kill()
        self.process.wait()

    def _listen(self, say: Callable[[Worker, dict[str, Any] | None], None]) -> None:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline(LONGEST_LINE):
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if isinstance(message, dict):
                say(self, message)
        self.process.stdout.close()
        self.process.wait()
        say(self, None)


class Runner:
    """Gives jobs to the worker, one after the other, in a thread of its own."""

    def __init__(self, jobs: Jobs, command: list[str], patience: float = PATIENCE):
        """`command` starts a worker."""
        self.jobs, self.command, self.patience = jobs, command, patience
        self.worker: Worker | None = None
        self.running: dict[str, float | None] = {}
        """The jobs that the worker has, with the time by which it must have stopped at one."""
        self.begun: list[str] = []
        """The jobs that it has turned to, and from each to the next."""
        self._inbox: Queue[Callable[[], None]] = Queue()
        self._thread: Thread | None = None
        self._stopped = False

    def start(self) -> None:
        """Begins; the worker is started with the first job."""
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and the worker; jobs that have not ended stay queued in their files."""
        self._stopped = True
        self.wake()
        if self._thread is not None:
            self._thread.join()
        if self.worker is not None:
            self.worker.kill()

    def wake(self) -> None:
        """Has the queue looked at."""
        self._inbox.put(lambda: None)

    def cancel(self, name: str) -> None:
        """Cancels a job that waits or runs; of one that has ended nothing changes."""
        self._inbox.put(lambda: self._cancel(name))

    def _run(self) -> None:
        while not self._stopped:
            self._give()
            deadlines = [deadline for deadline in self.running.values() if deadline is not None]
            wait = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
            try:
                self._inbox.get(timeout=wait)()
            except Empty:
                self._kill_late()

    def _give(self) -> None:
        """Gives the worker what it has room for: one job, and the report."""
        kinds = {job.kind for name in self.running if (job := self.jobs.get(name)) is not None}
        if not kinds - {REPORT} and (job := self.jobs.next()) is not None:
            self._start(job)
        if REPORT not in kinds and (job := self.jobs.next(REPORT)) is not None:
            self._start(job)

    def _start(self, job: Job) -> None:
        if self.worker is None:
            try:
                self.worker = Worker(self.command, self._heard)
            except OSError as error:
                self.jobs.change(job.id, state="failed", message=f"the worker cannot be started ({error})")
                return
        self.jobs.change(job.id, state="running")
        self.running[job.id] = None
        result = str(self.jobs.result(job.id))
        self.worker.tell(do="run", id=job.id, kind=job.kind, arguments=job.arguments, result=result)

    def _heard(self, worker: Worker, message: dict[str, Any] | None) -> None:
        """In the thread of the worker's output."""
        if message is not None and message.get("event") == "progress":
            self.jobs.progress(message["id"], message["what"], message["done"], message["of"])
        else:
            self._inbox.put(lambda: self._ended(worker) if message is None else self._finish(message))

    def _finish(self, message: dict[str, Any]) -> None:
        name, event = message.get("id"), message.get("event")
        if name not in self.running:
            return
        if event == "begun":
            self.begun.append(name)
        elif event in ("done", "failed", "cancelled"):
            del self.running[name]
            self.begun = [other for other in self.begun if other != name]
            if self.jobs.change(name, state=event, message=message.get("message", "")) is None:
                self.jobs.result(name).unlink(missing_ok=True)

    def _cancel(self, name: str) -> None:
        job = self.jobs.get(name)
        if job is None or not job.waits:
            return
        if name not in self.running:
            self.jobs.change(name, state="cancelled")
        elif self.worker is not None and self.running[name] is None:
            self.worker.tell(do="cancel", id=name)
            self.running[name] = time.monotonic() + self.patience

    def _kill_late(self) -> None:
        """Ends a worker that goes on with what was cancelled; `_ended` does the rest."""
        now = time.monotonic()
        if self.worker is not None and any(at is not None and at <= now for at in self.running.values()):
            for name, deadline in self.running.items():
                self.running[name] = None if deadline is None else now + self.patience
            self.worker.process.kill()

    def _ended(self, worker: Worker) -> None:
        """The worker is no more: what was cancelled is so, what it was at is run again once."""
        if worker is not self.worker:
            return
        self.worker = None
        killed = any(deadline is not None for deadline in self.running.values())
        at = [*self.running, *self.begun][-1] if self.running else None
        for name, deadline in self.running.items():
            job = self.jobs.get(name)
            if job is None:
                continue
            deaths = job.deaths + (name == at and not killed)
            if deadline is not None:
                self.jobs.change(name, state="cancelled")
            elif deaths >= DEATHS:
                how = _how_it_ended(worker.process.returncode)
                self.jobs.change(name, state="failed", deaths=deaths, message=f"{how}{_TWICE}")
            else:
                self.jobs.change(name, state="queued", deaths=deaths)
        self.running.clear()
        self.begun.clear()


_TWICE = ", twice, while it was at this job; it may need more memory than there is: ask for less at once"


def _how_it_ended(status: int | None) -> str:
    if status is not None and status < 0:
        return f"the worker was ended by {signal.Signals(-status).name}"
    return f"the worker ended with status {status}"
