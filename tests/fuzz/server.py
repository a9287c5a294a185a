"""A process that has imported everything and forks a child for each call, which so starts in no time.

Reads one JSON object a line from stdin and answers with one a line. A call names a function, its arguments, a
working folder, files for what it prints, and its limits; the child has a session of its own and is killed
with all that it started when its time is up.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path

STREAMS = {"stdout": 1, "stderr": 2}
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2
_CAPABILITY_VERSION_3 = 0x20080522


def import_everything():
    """What the commands import when they run, most of five seconds of it."""
    import datasets  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import sparsify  # noqa: F401
    import torch

    import finetune.dictionaries.train
    import finetune.finetuning.finetune
    import finetune.pretraining.pretrain  # noqa: F401
    from bilinear_lm.cli import commands

    commands()
    torch.set_num_threads(1)  # threads do not survive a fork
    gc.freeze()


def serve():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what imports print is no answer
    import_everything()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_fork(request)), file=answers, flush=True)


def _fork(request):
    start = time.monotonic()
    pipes = {name: os.pipe() for name in STREAMS}  # to which limits of files do not apply
    child = os.fork()
    if not child:
        _be_the_child(request, {name: write for name, (_, write) in pipes.items()})
    printed = dict.fromkeys(STREAMS, b"")
    for read, write in pipes.values():
        os.close(write)
        os.set_blocking(read, False)
    deadline, late = start + request["seconds"], False
    while True:
        for name, (read, _) in pipes.items():
            printed[name] += _available(read)
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if not late and time.monotonic() > deadline:
            late = True
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.003)
    leave_no_process(child)
    for name, (read, _) in pipes.items():
        printed[name] += _available(read)
        os.close(read)
    return {
        **{name: text.decode("utf-8", "backslashreplace") for name, text in printed.items()},
        "status": os.waitstatus_to_exitcode(status),
        "late": late,
        "seconds": time.monotonic() - start,
        "megabytes": usage.ru_maxrss // 1024,
    }


def _available(pipe):
    parts = []
    while True:
        try:
            part = os.read(pipe, 1 << 16)
        except BlockingIOError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def leave_no_process(group):
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _be_the_child(request, streams):
    """Runs the call as the interpreter would run a script, and never returns."""
    status = 1
    try:
        os.setsid()
        os.chdir(request["folder"])
        os.environ.update(request["environment"])
        tempfile.tempdir = None
        for name, write in streams.items():
            os.dup2(write, STREAMS[name])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        set_limits(request["megabytes"], request["file_bytes"], used=_own_data())
        if request["unprivileged"]:
            drop_privileges()
        status = _call(request["function"], request["arguments"])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status or 0)


def _call(function, arguments):
    if function == "main":
        from bilinear_lm.cli import main

        sys.argv = ["bilinear-lm", *arguments]
        return main()
    from bilinear_lm.errors import InputError

    module, _, name = function.partition(":")
    try:
        getattr(importlib.import_module(module), name)(*arguments)
    except InputError as error:
        print(f"bilinear-lm: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # as the command line says it
        if error.filename is None:
            raise
        print(f"bilinear-lm: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except importlib.import_module("loaders").Wrong as error:
        print(f"accepted and wrong: {error}", file=sys.stderr)
        return 3
    return 0


def set_limits(megabytes, file_bytes=2**30, used=0):
    """Limits what is allocated beyond what is there already, the size of a file, and core dumps."""
    for limit, most in (
        (resource.RLIMIT_DATA, used + megabytes * 2**20),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))


def _own_data():
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))


def drop_privileges():
    """Makes the modes of files hold for root too, who may else read and write everything."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = ctypes.create_string_buffer(struct.pack("<Ii", _CAPABILITY_VERSION_3, 0))
    sets = ctypes.create_string_buffer(24)
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    values = list(struct.unpack("<6I", sets.raw[:24]))
    mask = ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    values[0] &= mask
    values[1] &= mask
    if libc.capset(header, ctypes.create_string_buffer(struct.pack("<6I", *values))):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    serve()
