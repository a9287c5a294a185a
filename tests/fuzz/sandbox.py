"""One case: a folder with copies of its inputs, the call, and a verdict on how it ended."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
MEGABYTES = 2_500
SECONDS = 60
FIFO = "fifo"


@dataclass(frozen=True)
class Case:
    """A call on inputs of which some are spoiled, and which ways to end are right."""

    name: str
    """kind/detail; what is drawn at random is drawn from it and the seed."""
    arguments: tuple[str, ...]
    uses: tuple[str, ...] = ("model",)
    """Names of inputs, which lie in `in/`."""
    spoil: Callable[[Path, Random], None] | None = None
    """Gets the working folder."""
    function: str = "main"
    outputs: dict[str, str] = field(default_factory=dict)
    """Path → kind (of `loaders.CHECKS`) of what the command writes."""
    consumes: str = ""
    """What was there before and is gone where the command succeeds."""
    right: Literal["any", "refusal", "success"] = "any"
    like: tuple[str, ...] = ()
    """Arguments that write `out/like`, the weights of which are to be those of the output."""
    says: str = ""
    """A pattern of the refusal."""
    unprivileged: bool = False
    """Whether modes of files count for root too."""
    file_bytes: int = 2**30
    """The most that a file may hold; writing more fails as on a full disk."""
    real: bool = False
    """Whether to start `python -m bilinear_lm` instead of forking."""

    @property
    def kind(self) -> str:
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Ended:
    status: int
    late: bool
    seconds: float
    out: str
    err: str


@dataclass(frozen=True)
class Verdict:
    """How a case ended: done, refused, or usage (tyro's own refusal); and what was wrong about it."""

    way: str
    faults: tuple[str, ...]
    ended: Ended


def environment(folder: Path, cache: Path) -> dict[str, str]:
    """What a command sees: temporary files in the folder, no network, no colour."""
    return {
        "TMPDIR": str(folder / "tmp"),
        "HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(cache / "hf"),
        "MPLCONFIGDIR": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "NO_COLOR": "1",
        "COLUMNS": "200",
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


class Server:
    """The process of `server.py`; `call` runs a function in a child of it."""

    def __init__(self, cache: Path):
        self.cache = cache
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(cache / "server.log").open("w"),
            text=True,
            env={**os.environ, **environment(cache, cache)},
        )
        self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the server of the fuzz ended; see server.log")
        return json.loads(line)

    def call(self, folder: Path, function: str, arguments: tuple[str, ...], **options) -> Ended:
        request = {
            "folder": str(folder),
            "function": function,
            "arguments": list(arguments),
            "environment": environment(folder, self.cache),
            "megabytes": MEGABYTES,
            "seconds": SECONDS,
            "file_bytes": 2**30,
            "unprivileged": False,
        } | options
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self._answer()
        return Ended(*(answer[name] for name in ("status", "late", "seconds", "stdout", "stderr")))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def read_lossy(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "backslashreplace") if path.exists() else ""


def start(case: Case, folder: Path, cache: Path) -> Ended:
    """The command in an interpreter of its own."""
    import time

    import server

    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "bilinear_lm", *(os.fsencode(part) for part in case.arguments)],
        cwd=folder,
        env={**os.environ, **environment(folder, cache)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: server.set_limits(MEGABYTES + 2_000),
    )
    late = False
    try:
        out, err = process.communicate(timeout=3 * SECONDS)
    except subprocess.TimeoutExpired:
        late = True
        server.leave_no_process(process.pid)
        out, err = process.communicate()
    out, err = (part.decode("utf-8", "backslashreplace") for part in (out, err))
    return Ended(process.returncode, late, time.monotonic() - begun, out, err)


def run(case: Case, seed: int, server: Server, inputs: Path, folder: Path, cache: Path) -> Verdict:
    """Lays out the folder, spoils what the case says, calls and judges."""
    _require_inside(case)
    for name in ("in", "out", "tmp", "home"):
        (folder / name).mkdir(parents=True)
    for name in case.uses:
        copy = shutil.copytree if (inputs / name).is_dir() else shutil.copyfile
        copy(inputs / name, folder / "in" / name)
    if case.spoil is not None:
        case.spoil(folder, Random(f"{seed} {case.name}"))
    before = snapshot(folder)
    if case.real:
        ended = start(case, folder, cache)
    else:
        options = {"unprivileged": case.unprivileged, "file_bytes": case.file_bytes}
        ended = server.call(folder, case.function, case.arguments, **options)
    after = snapshot(folder)
    way, faults = judge(case, ended, before, after)
    if way == "done" and not faults:
        for path, kind in case.outputs.items():
            if path in after:
                read = server.call(folder, "loaders:check", (kind, path))
                if read.status:
                    faults.append(f"{path} is there and wrong: {last_line(read.err)}")
            else:
                faults.append(f"no {path}")
        if case.like:
            server.call(folder, case.function, case.like)
            made, like = (folder / "out" / name / "model.safetensors" for name in ("result", "like"))
            if made.read_bytes() != like.read_bytes():
                faults.append(f"other weights than by {' '.join(case.like)}")
    return Verdict(way, tuple(faults), ended)


def _require_inside(case: Case) -> None:
    """Raises where a case would write elsewhere than in its folder, which root could."""
    for option, path in zip(case.arguments, case.arguments[1:], strict=False):
        if option in ("-o", "--output", "--page") and (path.startswith("/") or ".." in path):
            raise ValueError(f"{case.name}: writes to {path}")


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def snapshot(folder: Path) -> dict[str, str]:
    """Path → what it is, of everything in a folder."""
    return {str(path.relative_to(folder)): _what(path) for path in sorted(folder.rglob("*"))}


def _what(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"-> {path.readlink()}"
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        return FIFO
    if not os.access(path, os.R_OK):
        return str(path.stat().st_size)
    return hashlib.sha256(path.read_bytes()).hexdigest()


_BAR = re.compile(r"\d+%\||\[\d\d:\d\d|\x1b\[A|it/s\]")
_SAID = "bilinear-lm: "


def lines_of(err: str) -> list[str]:
    """The lines of stderr without progress bars."""
    parts = re.split(rf"[\r\n]|(?<=\])(?={_SAID})", err)
    return [part for part in parts if part.strip() and not _BAR.search(part)]


_RENAMED = re.compile(r"bilinear-lm: \w+ --[\w-]+ is called --[\w-]+ now")
"""A line of its own, about an old spelling of an option."""


def judge(case: Case, ended: Ended, before: dict[str, str], after: dict[str, str]) -> tuple[str, list[str]]:
    """The way a call ended, and the faults of it."""
    lines, faults = [line for line in lines_of(ended.err) if not _RENAMED.fullmatch(line)], []
    if re.search(rf"\]{_SAID}", ended.err):
        faults.append("the line is behind a progress bar")
    if ended.late:
        return "late", [f"no end after {ended.seconds:.0f} s; last said {last_line(ended.err)[:200]!r}"]
    if "Traceback" in ended.err:
        faults.append(f"a traceback: {last_line(ended.err)[:300]}")
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    if ended.status == 0:
        way = "done"
        gone = {path for path in changed if path not in after and _inside(path, [case.consumes])}
        parents = {str(parent) for output in case.outputs for parent in Path(output).parents}
        changed = {path for path in changed - gone - parents if not _inside(path, case.outputs)}
        if case.right == "refusal":
            faults.append("accepted; a refusal is expected")
        if "--json" in case.arguments:
            faults += _json_faults(ended.out)
    elif ended.status == 2 and not any(line.startswith(_SAID) for line in lines):
        way = "usage"
        if not any(line.startswith("╭─") for line in lines):
            faults.append(f"status 2 with {len(lines)} lines, none of which begins {_SAID!r}")
    elif ended.status == 2:
        way = "refused"
        if len(lines) != 1:
            faults.append(f"{len(lines)} lines: {' / '.join(line[:120] for line in lines[:4])}")
        kept = re.findall(r"[\w./-]*\.run\b", lines[-1])
        changed = {path for path in changed if not _inside(path, {Path(run).as_posix() for run in kept})}
        if "--resume" in lines[-1]:  # goes on in the output itself
            changed = {path for path in changed if not _inside(path, case.outputs)}
        if not re.search(case.says, lines[-1]):
            faults.append(f"does not say {case.says!r}: {lines[-1][:300]}")
    else:
        way = f"status {ended.status}"
        faults.append(f"status {ended.status}: {last_line(ended.err)[:300]}")
    if case.right == "success" and way != "done":
        faults.append(f"refused; it is valid: {last_line(ended.err)[:300]}")
    if changed:
        faults.append(f"left over or changed: {', '.join(sorted(changed)[:5])}")
    return way, faults


def _inside(path: str, roots) -> bool:
    return any(path == root or path.startswith(root + "/") for root in roots)


def _json_faults(text: str) -> list[str]:
    def refuse(constant):
        raise ValueError(f"{constant} in it")

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError as error:
        return [f"what it prints is not JSON: {error}"]
    return []
