"""The server's answers: the page, the jobs, their results; for one address, one token, and nobody else.

Everything lies below /TOKEN/. A request is refused that names another host (a page elsewhere whose name was
made to point here), that comes from another origin, or that does not know the token.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from analysis.explore.jobs import REPORT, QueueFull
from analysis.explore.runner import Runner
from bilinear_lm.errors import InputError

LARGEST_BODY = 64 * 1024
"""Bytes of a request's body, at most."""

SLOWEST_BODY = 10.0
"""Seconds in which a body must have come."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

NOTHING_RUNS = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""The policy of all answers but the page, which states in itself what may run."""


class Guard:
    """Lets requests in that name this server, come from its own pages and know the token."""

    def __init__(self, app: ASGIApp, port: int, token: str):
        self.app, self.token = app, token
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self.origins = {f"http://{host}" for host in self.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands a request on, or refuses it."""
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await _said(*refusal)(scope, receive, with_headers)
            return
        rest = _path(scope).removeprefix(f"/{self.token}")
        await self.app({**scope, "path": rest, "raw_path": rest.encode()}, receive, with_headers)

    def _refusal(self, scope: Scope) -> tuple[str, int] | None:
        given = Headers(scope=scope)
        hosts = given.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return "This server answers under its own address alone.", 403
        if any(origin not in self.origins for origin in given.getlist("origin")):
            return "This server answers its own pages alone.", 403
        if any(site not in ("same-origin", "none") for site in given.getlist("sec-fetch-site")):
            return "This server answers its own pages alone.", 403
        first = _path(scope).split("/", 2)[1:]
        if len(first) != 2 or not secrets.compare_digest(first[0].encode(), self.token.encode()):
            return "There is nothing here; use the whole address that explore printed.", 404
        return None


def _path(scope: Scope) -> str:
    return unquote(scope.get("raw_path", scope["path"].encode()).split(b"?")[0].decode("latin-1"))


def _said(message: str, status: int) -> Response:
    return PlainTextResponse(message, status, {"Content-Security-Policy": NOTHING_RUNS})


def _json(value: Any, status: int = 200) -> Response:
    return JSONResponse(value, status, {"Content-Security-Policy": NOTHING_RUNS})


def _refused(message: str, status: int) -> Response:
    return _json({"message": message}, status)


class Answers:
    """Answers to the page's requests."""

    def __init__(self, runner: Runner, shell: str, report: Path, begin: dict[str, Any]):
        """`shell` is the page until `report` is there; `begin` is what the page is told first."""
        self.runner, self.jobs = runner, runner.jobs
        self.shell, self.report, self.begin = shell, report, begin

    def routes(self) -> list[Route]:
        """By path, below the token."""
        return [
            Route("/", self.page),
            Route("/api/jobs", self.listed, methods=["GET"]),
            Route("/api/jobs", self.add, methods=["POST"]),
            Route("/api/jobs/{name}", self.job, methods=["GET"]),
            Route("/api/jobs/{name}", self.remove, methods=["DELETE"]),
            Route("/api/jobs/{name}/result", self.result, methods=["GET"]),
        ]

    async def page(self, request: Request) -> Response:
        """The page: the whole one as soon as it is there."""
        headers = {"Content-Security-Policy": "frame-ancestors 'none'"}
        if self.report.is_file():
            return FileResponse(self.report, media_type="text/html", headers=headers)
        return Response(self.shell, media_type="text/html", headers=headers)

    async def listed(self, request: Request) -> Response:
        """All jobs, and whether the page is whole."""
        jobs = [self.jobs.shown(job) for job in self.jobs.all()]
        report = next((job for job in reversed(jobs) if job["kind"] == REPORT), None)
        others = [job for job in jobs if job["kind"] != REPORT]
        return _json({"jobs": others, "report": report, "whole": self.report.is_file(), **self.begin})

    async def add(self, request: Request) -> Response:
        """Queues a job."""
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            return _refused("the request is no JSON; expected Content-Type: application/json", 415)
        body = await _body(request)
        if isinstance(body, Response):
            return body
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return _refused("the request is no JSON; expected an object", 400)
        if not isinstance(asked, dict) or asked.keys() != {"kind", "arguments"}:
            return _refused("expected an object with kind and arguments", 400)
        try:
            job = self.jobs.add(asked["kind"], asked["arguments"])
        except QueueFull as error:
            return _refused(str(error), 429)
        except InputError as error:
            return _refused(str(error), 400)
        self.runner.wake()
        return _json(self.jobs.shown(job), 201)

    async def job(self, request: Request) -> Response:
        """One job."""
        job = self.jobs.get(request.path_params["name"])
        return _refused("there is no such job", 404) if job is None else _json(self.jobs.shown(job))

    async def remove(self, request: Request) -> Response:
        """Cancels a job that has not ended; forgets one that has."""
        job = self.jobs.get(request.path_params["name"])
        if job is None:
            return _refused("there is no such job", 404)
        if job.waits:
            self.runner.cancel(job.id)
        else:
            self.jobs.forget(job.id)
        return _json({"id": job.id}, 202)

    async def result(self, request: Request) -> Response:
        """The result of a job, as the worker wrote it."""
        job = self.jobs.get(request.path_params["name"])
        if job is None or job.state != "done" or not self.jobs.result(job.id).is_file():
            return _refused("there is no such result", 404)
        headers = {"Content-Security-Policy": NOTHING_RUNS}
        return FileResponse(self.jobs.result(job.id), media_type="application/json", headers=headers)


async def _body(request: Request) -> bytes | Response:
    """The body of a request, unless it is too large or does not come."""
    too_large = _refused(f"the request is too large; expected at most {LARGEST_BODY:,} bytes", 413)
    stated = request.headers.get("content-length", "0")
    if not stated.isdecimal() or int(stated[:12]) > LARGEST_BODY:
        return too_large
    body = b""
    try:
        async with asyncio.timeout(SLOWEST_BODY):
            async for part in request.stream():
                body += part
                if len(body) > LARGEST_BODY:
                    return too_large
    except (TimeoutError, ClientDisconnect):
        return _refused("the request did not come to its end", 408)
    return body


def make_app(
    runner: Runner, shell: str, report: Path, begin: dict[str, Any], port: int, token: str
) -> ASGIApp:
    """The application that answers on a port for those who know the token."""
    handlers: dict[Any, Callable[..., Any]] = {
        404: lambda request, error: _refused("there is nothing here", 404),
        405: lambda request, error: _refused("this cannot be done here", 405),
        500: lambda request, error: _refused("the server failed at this request", 500),
    }
    answers = Answers(runner, shell, report, begin)
    app = Starlette(routes=answers.routes(), exception_handlers=handlers)
    return Guard(app, port, token)
