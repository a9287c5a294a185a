"""Jobs: what was asked, how far it is, and its result; each a JSON file, so that they outlive the server.

A job is `ID.json` and, once it is done, `ID.result.json` beside it, which is written by the worker and handed
on as it is: the server never holds a result. Both are written whole or not at all.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from threading import RLock
from typing import Any, Literal, get_args

from analysis.explore.asked import checked_arguments
from bilinear_lm.errors import InputError
from bilinear_lm.files import read_json, write_json

State = Literal["queued", "running", "done", "failed", "cancelled"]

QUEUE = 20
"""Jobs that wait, at most."""

KEPT = 200
"""Jobs that are kept, at most: offers of tokens go first, then the oldest."""

REPORT = "report"
"""The kind of the job that makes the report, which others may interrupt."""

_ID = re.compile(r"[0-9a-f]{16}")


class QueueFull(InputError):
    """Too many jobs wait."""


@dataclass(frozen=True)
class Job:
    """One thing that was asked of the model."""

    id: str
    number: int
    """Jobs are numbered as they come."""
    kind: str
    arguments: dict[str, Any]
    state: State = "queued"
    message: str = ""
    """The reason why a job failed."""
    deaths: int = 0
    """How many workers ended while they ran it."""

    @property
    def waits(self) -> bool:
        """Whether it is still to be done."""
        return self.state in ("queued", "running")


class Jobs:
    """The jobs in a folder; may be used from several threads."""

    def __init__(self, folder: Path):
        """Read what is there: jobs that had not ended are queued again, files that are no jobs left alone."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = RLock()
        self._progress: dict[str, tuple[str, int, int | None]] = {}
        read = sorted(filter(None, map(_read, folder.glob("*.json"))), key=lambda job: job.number)
        self._jobs = {job.id: replace(job, state="queued") if job.waits else job for job in read}

    def add(self, kind: Any, arguments: Any) -> Job:
        """Queues a job; InputError for arguments that do not fit, QueueFull where too many wait."""
        fitting = checked_arguments(kind, arguments)
        with self._lock:
            if sum(job.state == "queued" for job in self._jobs.values()) >= QUEUE:
                raise QueueFull(f"{QUEUE} jobs wait already; wait for some to end, or cancel them")
            return self._add(kind, fitting)

    def add_report(self) -> Job:
        """Queues the report, which is not for requests to ask for."""
        with self._lock:
            return self._add(REPORT, {})

    def _add(self, kind: str, arguments: dict[str, Any]) -> Job:
        number = 1 + max((job.number for job in self._jobs.values()), default=0)
        job = Job(secrets.token_hex(8), number, kind, arguments)
        self._jobs[job.id] = job
        self._save(job)
        self._forget_oldest()
        return job

    def all(self) -> list[Job]:
        """All jobs, the first asked first."""
        with self._lock:
            return list(self._jobs.values())

    def get(self, name: str) -> Job | None:
        """The job of this id, if there is one."""
        with self._lock:
            return self._jobs.get(name)

    def next(self, kind: str | None = None) -> Job | None:
        """The job to be run next: offers of tokens first, for somebody waits with a half-typed prompt; never
        the report, unless it is asked for."""
        with self._lock:
            queued = [job for job in self._jobs.values() if job.state == "queued"]
        queued = [job for job in queued if (job.kind == REPORT) == (kind == REPORT)]
        return min(queued, key=lambda job: (job.kind != "tokens", job.number), default=None)

    def change(self, name: str, **changes: Any) -> Job | None:
        """Changes a job that is there; its progress is forgotten once it has ended."""
        with self._lock:
            if (job := self._jobs.get(name)) is None:
                return None
            self._jobs[name] = job = replace(job, **changes)
            if not job.waits:
                self._progress.pop(name, None)
            self._save(job)
            return job

    def forget(self, name: str) -> None:
        """Removes a job and its result."""
        with self._lock:
            if self._jobs.pop(name, None) is None:
                return
            self._progress.pop(name, None)
            self._file(name).unlink(missing_ok=True)
            self.result(name).unlink(missing_ok=True)

    def progress(self, name: str, what: str, done: int, of: int | None) -> None:
        """Notes how far a job is; in memory alone."""
        with self._lock:
            if name in self._jobs:
                self._progress[name] = (what, done, of)

    def shown(self, job: Job) -> dict[str, Any]:
        """A job as the page gets it."""
        with self._lock:
            what, done, of = self._progress.get(job.id, ("", 0, None))
        progress = {"what": what, "done": done, "of": of} if job.state == "running" else None
        return {**asdict(job), "progress": progress}

    def result(self, name: str) -> Path:
        """Where the result of a job lies once it is done."""
        return self.folder / f"{name}.result.json"

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _save(self, job: Job) -> None:
        write_json(self._file(job.id), asdict(job))

    def _forget_oldest(self) -> None:
        ended = [job for job in self._jobs.values() if not job.waits and job.kind != REPORT]
        ended.sort(key=lambda job: (job.kind != "tokens", job.number))
        for job in ended[: max(0, len(self._jobs) - KEPT)]:
            self.forget(job.id)


def _read(path: Path) -> Job | None:
    """The job in a file; None for a file that holds none."""
    if not _ID.fullmatch(path.stem):
        return None
    try:
        record = read_json(path)
        if record.keys() != {field.name for field in fields(Job)} or record["id"] != path.stem:
            return None
        if record["kind"] != REPORT:
            record["arguments"] = checked_arguments(record["kind"], record["arguments"])
    except InputError:
        return None
    whole = all(type(record[name]) is int for name in ("number", "deaths"))
    known = record["state"] in get_args(State)
    return Job(**record) if whole and known and isinstance(record["message"], str) else None
