"""The worker: a process that holds the model and runs jobs as the server gives them, by `runner`'s lines.

It says how far it is at each step of the work (`bilinear_lm.progress`), and there it stops if the job was
cancelled. At the steps of the report it runs what else has come, so that nobody waits for the whole report.
The report reads a model of its own, with the same weights: what watches that one does not see other jobs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import TYPE_CHECKING, Any, BinaryIO

from analysis.explore.jobs import REPORT
from bilinear_lm.errors import InputError, on_one_line
from bilinear_lm.files import write_bytes
from bilinear_lm.progress import Listener, listening, tell

if TYPE_CHECKING:
    from analysis.explore.session import Session

SECONDS = 0.1
"""Progress is told at most so often."""


class Cancelled(BaseException):
    """The job is not wanted any more; no error, so that nothing on the way takes it for one."""


class Server:
    """The other end of the lines."""

    def __init__(self, heard: BinaryIO, said: BinaryIO):
        self._said = said
        self.jobs: Queue[dict[str, Any]] = Queue()
        self._cancelled: set[str] = set()
        Thread(target=self._hear, args=(heard,), daemon=True).start()

    def _hear(self, heard: BinaryIO) -> None:
        for line in heard:
            message = json.loads(line)
            if message["do"] == "cancel":
                self._cancelled.add(message["id"])
            else:
                self.jobs.put(message)
        os._exit(0)  # the server is gone, and with it whoever wanted the job that may be running

    def say(self, event: str, name: str, **more: Any) -> None:
        """Tells the server of a job."""
        self._said.write(json.dumps({"event": event, "id": name, **more}).encode() + b"\n")
        self._said.flush()

    def stop_if_cancelled(self, name: str) -> None:
        """Raises Cancelled if a job is not wanted any more."""
        if name in self._cancelled:
            raise Cancelled


class Loop:
    """Runs what the server asks for, with a session that is opened for the first job."""

    def __init__(self, server: Server, settings: dict[str, Any]):
        self.server, self.settings = server, settings
        self._session: Session | None = None

    def run(self) -> None:
        """Runs one job after the other, for as long as the server is there."""
        while True:
            self.answer(self.server.jobs.get())

    def answer(self, job: dict[str, Any]) -> None:
        """Runs a job and says how it ended; what goes wrong with it is said, and ends nothing else."""
        name = job["id"]
        try:
            self.server.say("begun", name)
            with listening(self._steps(job)):
                self.server.stop_if_cancelled(name)
                result = self._result(job)
            write_bytes(Path(job["result"]), result)
        except Cancelled:
            self.server.say("cancelled", name)
        except InputError as error:
            self.server.say("failed", name, message=str(error))
        except Exception as error:
            said = on_one_line(f"{type(error).__name__}: {error}")[:500]
            self.server.say("failed", name, message=f"the computation failed ({said})")
            print(f"bilinear-lm: job {name}: {said}", file=sys.stderr)
        else:
            self.server.say("done", name)

    def _result(self, job: dict[str, Any]) -> bytes:
        if self._session is None:
            tell("starting")
            from analysis.explore.session import Session

            self._session = Session.open(self.settings)
        if job["kind"] == REPORT:
            self._session.write_report()
            return b"{}"
        result = self._session.run(job["kind"], job["arguments"])
        return json.dumps(result, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()

    def _steps(self, job: dict[str, Any]) -> Listener:
        name, is_report, told = job["id"], job["kind"] == REPORT, 0.0

        def step(what: str, done: int, of: int | None) -> None:
            nonlocal told
            self.server.stop_if_cancelled(name)
            now = time.monotonic()
            if now - told >= SECONDS or done == 0:
                told = now
                self.server.say("progress", name, what=what, done=done, of=of)
            if is_report and self._session is not None:
                self._run_others()

        return step

    def _run_others(self) -> None:
        """Runs what has come while the report is made, as if it were not."""
        try:
            while True:
                job = self.server.jobs.get_nowait()
                with _as_outside():
                    self.answer(job)
        except Empty:
            return


@contextmanager
def _as_outside() -> Iterator[None]:
    """Gradients as they are where no work has begun."""
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        yield


def command(settings: dict[str, Any]) -> list[str]:
    """The command that starts a worker, with the modules that this process has."""
    code = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from analysis.explore import worker; "
    code += "worker.main(json.loads(sys.argv[2]))"
    return [sys.executable, "-c", code, json.dumps(sys.path), json.dumps(settings)]


def main(settings: dict[str, Any]) -> None:
    """The worker's whole life. What libraries print goes to the standard error."""
    said = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    Loop(Server(sys.stdin.buffer, said), settings).run()
