"""Runs that are killed at a random moment, and what is left: nothing lost, nothing half-written.

A run is started as a user does, in a session of its own. The whole session gets the signal after a drawn
share of the time that the run takes without one, or as soon as the draft of its output is there.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from calls import CPU
from sandbox import ROOT, Ended, Server, environment, last_line, lines_of, read_lossy, snapshot
from server import leave_no_process

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
_ATTEMPTS = 8
PATIENCE = 120
"""Seconds that a run may take to end, after a signal too."""


@dataclass(frozen=True)
class Run:
    """A command line of a few seconds, its inputs, its output and whether it can be resumed."""

    arguments: tuple[str, ...]
    uses: tuple[str, ...]
    output: str
    kind: str
    keeps: str | None = None
    """What an interrupted run leaves, from which `resume` goes on."""
    resume: tuple[str, ...] = ("--resume",)
    """What is added to go on."""
    unfinished: str = ""
    """The kind of an output that is there and may lack parts: where the run goes on in the output itself."""
    drafts: str = ""
    """The drafts of such an output's parts."""


_FINETUNE = ("finetune", "in/swiglu", "--data", "in/train.txt", "--validation", "in/held-out.txt")
_FINETUNE += ("--precision", "float32", "--batch-size", "4", "--checkpoint-steps", "10", *CPU)
RUNS = {
    "train": Run(
        (
            *(
                "train",
                "--data",
                "in/train.txt",
                "--preset",
                "stories-1l",
                "--batch-size",
                "4",
                "--passes",
                "4",
            ),
            *("--precision", "float32", "--checkpoint-steps", "5", "--output", "out/result", *CPU),
        ),
        ("train.txt",),
        "out/result",
        "model",
        "out/result.run",
    ),
    "finetune-fit": Run(
        (*_FINETUNE, "--train-tokens", "5000", "--calibration-tokens", "3000", "--output", "out/result"),
        ("swiglu", "train.txt", "held-out.txt"),
        "out/result",
        "model",
        "out/result.run",
    ),
    "finetune-anneal": Run(
        (*_FINETUNE, "--train-tokens", "30000", "--start", "anneal", "--output", "out/result"),
        ("swiglu", "train.txt", "held-out.txt"),
        "out/result",
        "model",
        "out/result.run",
    ),
    "dictionaries": Run(
        (
            *("dictionaries", "in/model", "--data", "in/train.txt", "--passes", "20", "--features", "64"),
            *("--k", "4", "--validation-tokens", "3000", "--output", "out/result", *CPU),
        ),
        ("model", "train.txt"),
        "out/result",
        "dictionaries",
        "out/result.run",
    ),
    "eigen": Run(
        ("eigen", "stories", "--layer", "0", "--all-tokens", "--k", "4", "--output", "out/result", *CPU),
        (),
        "out/result",
        "eigen",
        "out/result",
        unfinished="partial",
        drafts=".part-*",
    ),
    "report": Run(
        (
            *("report", "in/model", "--dictionaries", "in/scope", "--contexts", "in/train.txt"),
            *("--prompt", "A cat", "--output", "out/result.html", *CPU),
        ),
        ("model", "scope", "train.txt"),
        "out/result.html",
        "page",
    ),
    "report-folder": Run(
        (
            *("report", "in/model", "--dictionaries", "in/scope", "--contexts", "in/train.txt"),
            *("--prompt", "A cat", "--output", "out/result", *CPU),
        ),
        ("model", "scope", "train.txt"),
        "out/result",
        "page",
        "out/result",
        resume=(),
        unfinished="partial-report",
        drafts="data/.*",
    ),
    "convert": Run(
        (
            *("convert", "in/swiglu", "--calibration", "in/train.txt", "--context", "32"),
            *("--steps", "400", "--batch-size", "512", "--output", "out/result", *CPU),
        ),
        ("swiglu", "train.txt"),
        "out/result",
        "model",
    ),
}


@dataclass(frozen=True)
class Kill:
    """One kill of a run."""

    run: str
    signal: str
    number: int
    writing: bool
    """As soon as the draft of the output is there, instead of at a drawn moment."""

    @property
    def name(self) -> str:
        return f"{self.run}-{self.number}-{self.signal}{'-writing' if self.writing else ''}"


def kills(seed: int) -> list[Kill]:
    """The kills: of each run one by each signal and one while its output is written, two more drawn."""
    random = Random(f"{seed} kills")
    planned = []
    for run in RUNS:
        signals = [*SIGNALS, random.choice(["SIGKILL", "SIGTERM", "SIGINT"])]
        planned += [Kill(run, name, i, writing=i == 3) for i, name in enumerate(signals)]
    for run in random.sample(sorted(RUNS), 2):
        planned.append(Kill(run, random.choice(sorted(SIGNALS)), 4, writing=False))
    return planned


def lay_out(run: Run, inputs: Path, folder: Path) -> None:
    for name in ("in", "out", "tmp", "home"):
        (folder / name).mkdir(parents=True)
    for name in run.uses:
        copy = shutil.copytree if (inputs / name).is_dir() else shutil.copyfile
        copy(inputs / name, folder / "in" / name)


class Started:
    """A command in an interpreter and a session of its own."""

    def __init__(self, arguments: tuple[str, ...], folder: Path, cache: Path):
        self.log = folder.with_name(folder.name + ".log")
        self.log.mkdir(exist_ok=True)
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bilinear_lm", *arguments],
            cwd=folder,
            env={**os.environ, **environment(folder, cache), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=(self.log / "stdout").open("wb"),
            stderr=(self.log / "stderr").open("wb"),
            start_new_session=True,
        )

    def wait_for(self, moment, pause=0.001) -> bool:
        """Waits until the moment is there; False where the run ends before."""
        while not moment(time.monotonic() - self.begun):
            if self.process.poll() is not None:
                return False
            time.sleep(pause)
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def end(self) -> Ended:
        late = False
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            late = True
        leave_no_process(self.process.pid)
        self.process.wait()
        out, err = (read_lossy(self.log / name) for name in ("stdout", "stderr"))
        return Ended(self.process.returncode, late, time.monotonic() - self.begun, out, err)


@dataclass(frozen=True)
class Whole:
    """A run that nothing interrupts: how long it takes, and what it writes."""

    seconds: float
    output: dict[str, str]


def run_whole(run: Run, inputs: Path, folder: Path, cache: Path) -> Whole:
    lay_out(run, inputs, folder)
    ended = Started(run.arguments, folder, cache).end()
    if ended.status:
        raise RuntimeError(f"{' '.join(run.arguments)}: status {ended.status}: {ended.err[-2000:]}")
    return Whole(ended.seconds, contents(folder / run.output))


_SPEED = ("tokens_per_second",)


def contents(output: Path) -> dict[str, str]:
    """What a run wrote, file by file, without how fast it was."""
    import json

    found = snapshot(output if output.is_dir() else output.parent)
    if not output.is_dir():
        found = {output.name: found[output.name]}
    for name in found:
        file = (output if output.is_dir() else output.parent) / name
        if file.suffix in (".json", ".jsonl") and any(word in file.read_text() for word in _SPEED):
            lines = [file.read_text()] if file.suffix == ".json" else file.read_text().splitlines()
            found[name] = json.dumps([_without_speed(json.loads(line)) for line in lines])
    return found


def _without_speed(value):
    if isinstance(value, dict):
        return {key: _without_speed(part) for key, part in value.items() if key not in _SPEED}
    return [_without_speed(part) for part in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Outcome:
    """What a kill left: the row of the table, and the faults."""

    row: tuple[str, ...]
    faults: tuple[str, ...]
    err: str


def kill(
    planned: Kill, seed: int, whole: Whole, inputs: Path, folder: Path, cache: Path, server: Server
) -> Outcome:
    """Starts, kills, looks at what is left, and finishes."""
    run, random = RUNS[planned.run], Random(f"{seed} {planned.name}")
    moment, reached = random.uniform(0.02, 0.98) * whole.seconds, False
    for attempt in range(_ATTEMPTS):
        lay_out(run, inputs, folder)
        before = snapshot(folder)
        started = Started(run.arguments, folder, cache)
        if planned.writing and attempt < _ATTEMPTS // 2:  # some drafts are there too shortly to be seen
            reached = started.wait_for(lambda seconds: any(_drafts(folder, run)), pause=0)
        else:
            reached = started.wait_for(lambda seconds: seconds >= moment)  # noqa: B023
        if reached:
            break
        started.end()
        moment *= 0.7  # the run was faster than the one that was measured
        shutil.rmtree(folder)
    if not reached:
        raise RuntimeError(f"{planned.name}: the run is over before the kill, {_ATTEMPTS} times")
    at = time.monotonic() - started.begun
    started.send(SIGNALS[planned.signal])
    ended = started.end()
    faults = list(_after_signal(planned.signal, ended))
    after = snapshot(folder)
    left = sorted(path for path in after.keys() - before.keys())
    faults += [f"changed: {path}" for path in before if after.get(path) != before[path]]
    faults += _half_written(run, folder, server)
    beside = [path for path in left if not _belongs(path, run)]
    if planned.signal != "SIGKILL" and beside:
        faults.append(f"{planned.signal} leaves {', '.join(beside[:4])}")
    goes_on = run.keeps is not None and (folder / run.keeps).exists()
    finished = ended.status == 0 or (run.keeps != run.output and (folder / run.output).exists())
    if not finished:
        last = Started((*run.arguments, *(run.resume if goes_on else ())), folder, cache).end()
        if last.status:
            faults.append(f"{'resuming' if goes_on else 'running again'}: {last_line(last.err)[:300]}")
    for path in sorted(snapshot(folder).keys() - before.keys()):
        if not (_inside(path, run.output) or (finished and _belongs(path, run))):
            faults.append(f"still there after the run that finished: {path}")
    if not any("resuming" in fault or "again" in fault for fault in faults):
        faults += _differences(contents(folder / run.output), whole.output)
    how = "resumed" if goes_on else "run again"
    tops = sorted({"/".join(path.split("/")[:2]) for path in beside})
    row = (
        planned.run,
        planned.signal,
        f"{at:.1f} of {whole.seconds:.1f} s" + (", writing" if planned.writing else ""),
        str(ended.status),
        ", ".join(tops) or "-",
        "finished" if finished else how,
    )
    return Outcome(row, tuple(faults), ended.err)


def _drafts(folder: Path, run: Run):
    """The names of drafts of the output, or of a part of it."""
    name = Path(run.output).name
    yield from (
        draft
        for draft in os.listdir(folder / "out")  # noqa: PTH208, the quickest: drafts are there for milliseconds
        if draft.startswith(f".{name}.") and not draft.startswith(f".{name}.run")
    )
    if run.keeps == run.output:
        yield from (folder / run.output).glob(run.drafts)
    elif run.keeps is not None and (folder / run.keeps).is_dir():  # where the finished model is filled
        yield from (folder / run.keeps).glob(".[ft]*ed.*")  # finished, of dictionaries trained


def _after_signal(name: str, ended: Ended):
    if ended.late:
        yield f"does not end after {name}"
        return
    lines = lines_of(ended.err)
    right = {"SIGKILL": (-9,), "SIGTERM": (-15, 143), "SIGINT": (130,)}[name]
    if ended.status not in (*right, 0):
        yield f"status {ended.status} after {name}; expected {' or '.join(map(str, right))}"
    if "Traceback" in ended.err:
        count = len(ended.err.splitlines())
        yield f"{count} lines with a traceback after {name}: {last_line(ended.err)[:200]}"
    elif name != "SIGKILL" and ended.status > 0 and len(lines) != 1:
        yield f"{len(lines)} lines after {name}: {' / '.join(lines[:3])[:200]}"


def _half_written(run: Run, folder: Path, server: Server):
    """Faults of an output that is there; one that can be resumed may lack parts."""
    output = folder / run.output
    if not output.exists():
        return
    kind = run.unfinished or run.kind
    read = server.call(folder, "loaders:check", (kind, run.output))
    if read.status:
        yield f"half-written: {last_line(read.err)[:300]}"


def _belongs(path: str, run: Run) -> bool:
    """Whether a file left behind is the output or what a run keeps to be resumed, and no draft of it."""
    kept = _inside(path, run.output) or (run.keeps is not None and _inside(path, run.keeps))
    return kept and not any(part.startswith(".") for part in path.split("/"))


def _inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/")


def _differences(got: dict[str, str], expected: dict[str, str]):
    return [
        f"{name} is not what a run without a kill writes"
        for name in sorted(got.keys() | expected.keys())
        if got.get(name) != expected.get(name)
    ]
