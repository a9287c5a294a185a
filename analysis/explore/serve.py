"""`serve`: the page on an address of this machine, until a signal ends it."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

import uvicorn

from analysis.explore.app import make_app
from analysis.explore.jobs import REPORT, Jobs
from analysis.explore.runner import Runner
from analysis.explore.settings import PAGE, Settings, held, state_key
from analysis.explore.shell import shell_page
from analysis.explore.worker import command
from bilinear_lm.errors import InputError

CONNECTIONS = 200
"""Requests at a time, beyond which a short refusal is the answer."""


def serve(
    settings: Settings,
    files: list[Path],
    *,
    state: Path | None,
    port: int,
    browser: bool,
    prompt: str | None,
) -> None:
    """Serves the page about a model until SIGINT or SIGTERM, which reach the caller once all is ended.

    `files` are what the model and its dictionaries are read from; the state is told from another's by them.
    Without a folder for the `state` it is a temporary one, which goes at the end. `prompt` is the one that
    the page begins with.
    """
    with ExitStack() as stack:
        listening = stack.enter_context(_bound(port))
        folder = _state_folder(stack, state) / state_key(settings, files)
        stack.enter_context(held(folder))
        settings = replace(settings, state=str(folder))
        runner = Runner(Jobs(folder / "jobs"), command(settings.as_json()))
        _first_jobs(runner.jobs, folder, settings, prompt)
        port, token = listening.getsockname()[1], secrets.token_urlsafe(24)
        begin = {
            "name": settings.name,
            "prompt": prompt or "",
            "dictionaries": settings.dictionaries is not None,
        }
        app = make_app(runner, shell_page(settings.name), folder / PAGE, begin, port, token)
        stack.callback(runner.stop)
        runner.start()
        address = f"http://127.0.0.1:{port}/{token}/"
        print(address, flush=True)
        if browser:
            _open(stack, address)
        _run(app, listening)


def _state_folder(stack: ExitStack, state: Path | None) -> Path:
    if state is not None:
        return state.expanduser().absolute()
    return Path(
        stack.enter_context(tempfile.TemporaryDirectory(prefix="bilinear-lm-", ignore_cleanup_errors=True))
    )


def _first_jobs(jobs: Jobs, folder: Path, settings: Settings, prompt: str | None) -> None:
    """Queues what the page begins with, unless it is there."""
    waiting = any(job.kind == REPORT and job.waits for job in jobs.all())
    if not (folder / PAGE).is_file() and not waiting:
        jobs.add_report()
    if any(job.kind != REPORT for job in jobs.all()):
        return
    if prompt is not None:
        jobs.add("graph", {"prompt": prompt})
    if settings.first is not None and settings.dictionaries is not None:
        layer, feature = settings.first
        jobs.add("weights", {"target": f"{layer}-mlp-out-{feature}"})


@contextmanager
def _bound(port: int) -> Iterator[socket.socket]:
    """A socket on a port of this machine alone; 0: a free one."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise InputError(
                f"explore: port {port} cannot be used ({why}); give another --port, or none for a free one"
            ) from error
        listening.listen(CONNECTIONS)
        yield listening


def _open(stack: ExitStack, address: str) -> None:
    """Opens the page in a browser, if there is one; a program that starts slowly keeps nobody waiting.

    Without a screen there are browsers of text alone, which would take the terminal.
    """
    has_screen = any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))
    if sys.platform.startswith("linux") and not has_screen:
        return

    def visit() -> None:
        with contextlib.suppress(webbrowser.Error, OSError):
            webbrowser.open(address)

    timer = Timer(0.2, visit)
    timer.daemon = True
    timer.start()
    stack.callback(timer.cancel)


def _run(app: Any, listening: socket.socket) -> None:
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        http="h11",
        loop="asyncio",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listening])
