"""A page that is served and looked at: what `explore` says of its first graph, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, nullcontext
from pathlib import Path

PATIENCE = 50
"""Seconds in which the first graph is there, or the reason why it is not."""


def refused(message, status=2):
    print(message, end="", file=sys.stderr)
    raise SystemExit(status)


def visit(*arguments):
    """Serves, waits for the first graph, interrupts; the line of what failed, as a command would say it."""
    _visit(arguments, nullcontext)


def visit_without_the_model(*arguments):
    """The same with a checkpoint that disappears once the page is served."""
    model = Path(arguments[0])

    @contextmanager
    def gone():
        away = model.rename(model.with_name("away"))
        yield
        away.rename(model)

    _visit(arguments, gone)


def visit_a_port_in_use(*arguments):
    """The same on a port that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        _visit((*arguments, "--port", str(other.getsockname()[1])), nullcontext)


def visit_with_a_browser_that_is_not_there(*arguments):
    """The same with a browser to be opened."""
    os.environ["BROWSER"] = "/nowhere/browser %s"
    _visit([part for part in arguments if part != "--no-browser"], nullcontext)


def _visit(arguments, meanwhile):
    command = [sys.executable, "-m", "bilinear_lm", "explore", *arguments]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    address = served.stdout.readline().strip()
    if not address:
        refused(served.stderr.read(), served.wait())
    with meanwhile():
        job = _first_graph(address)
    served.send_signal(signal.SIGINT)
    status, said = served.wait(), served.stderr.read()
    if (status, said) != (130, "bilinear-lm: interrupted\n"):
        refused(f"ended with {status}: {said}", 3)
    if job["state"] != "done":
        refused(f"bilinear-lm: {job['message']}\n")


def _first_graph(address):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with urllib.request.urlopen(f"{address}api/jobs") as answer:
            (job,) = json.load(answer)["jobs"]
        if job["state"] in ("done", "failed"):
            return job
        time.sleep(0.05)
    raise TimeoutError(f"the first graph is {job['state']} after {PATIENCE} s")
