"""Answers to requests: of the page, of strangers, and of many at once; the worker needs no model."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import pytest

from analysis.explore.app import HEADERS, LARGEST_BODY, make_app
from analysis.explore.jobs import QUEUE, REPORT
from analysis.explore.shell import shell_page

starlette = pytest.importorskip("starlette.testclient")

PORT, TOKEN = 8123, "secret-token"
HOST = f"127.0.0.1:{PORT}"
BEGIN = {"name": "a model", "prompt": "A cat", "dictionaries": True}


@pytest.fixture
def app(runner, tmp_path):
    return make_app(runner, shell_page("<a model>"), tmp_path / "report.html", BEGIN, PORT, TOKEN)


@pytest.fixture
def client(app):
    return starlette.TestClient(app, base_url=f"http://{HOST}/{TOKEN}/")


@pytest.fixture
def ask(client):
    def post(prompt, kind="graph"):
        return client.post("api/jobs", json={"kind": kind, "arguments": {"prompt": prompt}})

    return post


@pytest.fixture
def state(client):
    return lambda name: client.get(f"api/jobs/{name}").json()["state"]


def test_a_job_from_the_request_to_its_result(client, ask, state, until):
    answer = ask("a cat")
    assert answer.status_code == 201
    name = answer.json()["id"]
    until(lambda: state(name) == "done")
    assert client.get(f"api/jobs/{name}/result").json()["echo"]["prompt"] == "a cat"
    listed = client.get("api/jobs").json()
    assert [job["id"] for job in listed["jobs"]] == [name]
    assert (listed["whole"], listed["report"], listed["prompt"]) == (False, None, "A cat")
    assert client.delete(f"api/jobs/{name}").status_code == 202
    assert client.get("api/jobs").json()["jobs"] == []
    assert client.get(f"api/jobs/{name}/result").status_code == 404


def test_cancelling(client, ask, state, until):
    name = ask("wait").json()["id"]
    until(lambda: state(name) == "running")
    assert client.get(f"api/jobs/{name}/result").status_code == 404
    assert client.delete(f"api/jobs/{name}").status_code == 202
    until(lambda: state(name) == "cancelled")


def test_the_page_is_the_whole_one_as_soon_as_it_is_there(client, runner, tmp_path):
    first = client.get("")
    assert "What &lt;a model&gt; computes" in first.text
    assert "connect-src &#x27;self&#x27;" in first.text or "connect-src 'self'" in first.text
    assert first.headers["content-type"].startswith("text/html")
    (tmp_path / "report.html").write_text("<p>whole")
    assert client.get("").text == "<p>whole"
    runner.jobs.add_report()
    listed = client.get("api/jobs").json()
    assert (listed["whole"], listed["report"]["kind"], listed["jobs"]) == (True, REPORT, [])


def test_the_page_before_the_report_has_all_of_the_graphs_part():
    page = shell_page("a model")
    assert "$" not in page.partition('id="circuits"')[2].partition("</section>")[0]
    assert (
        page.index("class ExploreBar")
        < page.index("const graphs = startGraphs();")
        < page.index("startExplorer();")
    )


def test_answers_are_for_this_page_alone(client):
    for path in ("", "api/jobs", "api/none"):
        answer = client.get(path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": f"evil.example:{PORT}"}, 403),
        ({"Host": "127.0.0.1"}, 403),
        ({"Host": f"127.0.0.1:{PORT + 1}"}, 403),
        ({"Host": f"127.0.0.1.evil.example:{PORT}"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"https://{HOST}"}, 403),
        ({"Origin": f"http://127.0.0.1:{PORT + 1}"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": f"localhost:{PORT}", "Origin": f"http://{HOST}", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
)
def test_strangers_are_refused(client, headers, status):
    answer = client.get("api/jobs", headers=headers)
    assert answer.status_code == status
    assert TOKEN not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/api/jobs",
        f"/{TOKEN[:-1]}/",
        f"/{TOKEN}x/api/jobs",
        f"//{TOKEN}/",
        f"/x/../{TOKEN}x/",
        "/é/",
        "/%00/",
    ],
)
def test_without_the_token_there_is_nothing(client, path):
    answer = client.get(f"http://{HOST}{path}", follow_redirects=False)
    assert answer.status_code == 404
    assert TOKEN not in answer.text


@pytest.mark.parametrize(
    "path", ["x", "api/jobs/x", "api/jobs/../../x", "api/jobs/%2e%2e%2fx/result", "api/jobs/x/y"]
)
def test_other_paths_below_it(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("body", "kind", "status", "says"),
    [
        (b"{}", "text/plain", 415, "Content-Type"),
        (b"{}", "", 415, "Content-Type"),
        (b"{", "application/json", 400, "no JSON"),
        (b"\xff", "application/json", 400, "no JSON"),
        (b"[" * 50_000, "application/json", 400, "no JSON"),
        (b"[]", "application/json", 400, "an object with kind and arguments"),
        (b'{"kind": "graph", "arguments": {"prompt": ""}}', "application/json", 400, "the prompt is empty"),
        (b'{"kind": "report", "arguments": {}}', "application/json", 400, "kind 'report'"),
        (b" " * (LARGEST_BODY + 1), "application/json", 413, "at most 65,536 bytes"),
    ],
)
def test_requests_that_do_not_fit(client, body, kind, status, says):
    answer = client.post("api/jobs", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert says in answer.json()["message"]
    assert client.get("api/jobs").json()["jobs"] == []


def test_a_body_that_does_not_say_how_long_it_is(client):
    def pieces():
        for _ in range(70):
            yield b" " * 1024

    answer = client.post("api/jobs", content=pieces(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert client.put("api/jobs").status_code == 405


def test_fifty_requests_at_once(app, ask, state, until):
    """As many are taken as may wait, the others told to come again; the server's memory stays what it was."""
    name = ask("wait").json()["id"]
    until(lambda: state(name) == "running")  # so that the worker takes none of those that come

    async def all_at_once():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}/{TOKEN}/") as client:
            asked = {"kind": "graph", "arguments": {"prompt": "wait" + "." * 15_000}}
            posts = [client.post("api/jobs", json=asked) for _ in range(50)]
            pages = [client.get("") for _ in range(50)]
            answers = await asyncio.gather(*posts, *pages)
            said = next((answer.text for answer in answers if answer.status_code == 429), "")
            return [answer.status_code for answer in answers], said

    before = _resident()
    with ThreadPoolExecutor() as own:  # where no other loop runs
        status, said = own.submit(asyncio.run, all_at_once()).result()
    assert status[50:] == [200] * 50
    assert (status[:50].count(201), status[:50].count(429)) == (QUEUE, 50 - QUEUE)
    assert "wait for some to end" in said
    assert _resident() - before < 60e6


def _resident():
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
