"""The dashboard without a browser: who may see it, what another site cannot do, how curves are thinned."""

import base64
import threading
from uuid import UUID

import httpx
import numpy as np
import pytest
from sqlalchemy import text

from api.dashboard import differences, pages
from api.dashboard.session import _ours
from api.dashboard.thinning import thinned
from tests.api.problems import assert_problem
from tests.api.test_jobs import work
from tests.builders import document, values
from tests.uploads import making

PAGES = ["/", "/new", "/new/schema", "/data", "/compare"]
JOB = "00000000-0000-0000-0000-000000000000"


def addresses():
    """Of every page: a new one that can be seen by anyone fails the tests below."""
    paths = {route.path for route in pages.router.routes} - {"/docs"}
    return sorted(path.replace("{job_id:uuid}", JOB) for path in paths)


def cookie(client):
    return f"retrograd_key_{client.base_url.port}"


@pytest.fixture
def visitor(client, key):
    """A browser that has signed in, as far as cookies go."""
    with httpx.Client(base_url=client.base_url) as visitor:
        answer = visitor.post("/login", data={"key": key, "next": "/new"})
        assert (answer.status_code, answer.headers["Location"]) == (303, "/new")
        yield visitor


@pytest.mark.parametrize("path", addresses())
def test_a_stranger_sees_no_page(client, path):
    for cookies in ({}, {cookie(client): "rg_wrong"}):
        with httpx.Client(base_url=client.base_url, cookies=cookies) as stranger:
            answer = stranger.get(path)
        assert answer.status_code == 303
        assert answer.headers["Location"].startswith("/login")


@pytest.mark.parametrize("path", PAGES)
def test_pages_run_nothing_of_others(visitor, path):
    answer = visitor.get(path)
    assert answer.status_code == 200
    if answer.headers["Content-Type"].startswith("text/html"):
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert "<script>" not in answer.text
        assert "no-store" in answer.headers["Cache-Control"]


def test_the_cookie_is_for_this_server_and_no_script(client, key):
    with httpx.Client(base_url=client.base_url) as visitor:
        kept = visitor.post("/login", data={"key": key}).headers["Set-Cookie"]
        assert "HttpOnly" in kept
        assert "SameSite=strict" in kept
        gone = visitor.post("/logout").headers["Set-Cookie"]
        assert f'{cookie(client)}=""' in gone
        assert visitor.get("/").status_code == 303


def test_another_site_can_do_nothing_in_a_readers_name(visitor, client):
    """It can have the browser send the cookie, but no header of ours."""
    forged = visitor.post("/v1/jobs", json=document())
    assert_problem(forged, 401, "unauthorized")
    assert visitor.post("/v1/jobs", json=document(), headers={"X-Retrograd-Page": "1"}).status_code == 202
    assert len(visitor.get("/v1/jobs").json()["data"]) == 1
    assert_problem(visitor.delete("/v1/jobs/00000000-0000-0000-0000-000000000000"), 401, "unauthorized")


@pytest.mark.parametrize(
    "where",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "evil",
        "/a\nb",
        "//[",
        "",
    ],
)
def test_signing_in_leads_to_no_other_site(where):
    assert _ours(where) == "/"
    assert _ours("/jobs/1?part=facts") == "/jobs/1?part=facts"


def test_a_wrong_key_is_told_and_counted(client):
    with httpx.Client(base_url=client.base_url) as stranger:
        answer = stranger.post("/login", data={"key": "rg_wrong"})
        assert answer.status_code == 401
        assert "no key of this server" in answer.text
        assert "Set-Cookie" not in answer.headers


def test_a_page_of_another_project_is_not_there(client, stranger):
    job = client.post("/v1/jobs", json=document()).json()["id"]
    key = stranger.headers["Authorization"].removeprefix("Bearer ")
    with httpx.Client(base_url=client.base_url, cookies={cookie(client): key}) as other:
        for path in ("", "/curves", "/learned?iteration=0", "/traces"):
            answer = other.get(f"/jobs/{job}{path}")
            assert answer.status_code == 404
            assert "no job" in answer.text


def test_names_are_text_wherever_they_stand(visitor, client):
    name = "<img src=x onerror=alert(1)>'\"</textarea><script>"
    job = client.post("/v1/jobs", json=document({"name": name})).json()["id"]
    for path in ("/", f"/jobs/{job}", f"/compare?job={job}", f"/new?copy={job}", "/?search=<img"):
        text = visitor.get(path).text
        assert "<img" not in text.replace('<img src="/static/icon.svg"', "")
        assert "<script>" not in text


def test_curves_and_schedules_are_numbers(visitor, client, sessions):
    job = client.post("/v1/jobs", json=document()).json()
    assert visitor.get(f"/jobs/{job['id']}/curves").json()["iteration"] == [], "nothing yet"
    assert visitor.get(f"/jobs/{job['id']}/traces").json() == {"iteration": [], "lines": {"momentum": [[]]}}
    assert visitor.get(f"/jobs/{job['id']}/learned?iteration=0").status_code == 404
    work(sessions, job, iterations=2)
    found = visitor.get(f"/jobs/{job['id']}/curves").json()
    assert found["iteration"] == [0, 1]
    assert found["outer_loss"] == [3.0, None]
    assert visitor.get(f"/jobs/{job['id']}/curves?only=outer_loss").json().keys() == {
        "iteration", "outer_loss", "of", "best",
    }  # fmt: skip
    shown = visitor.get(f"/jobs/{job['id']}/learned?iteration=1").json()["views"]
    assert shown.keys() == {"step_size"}, "l2 is not learned, and momentum is one number"
    assert shown["step_size"]["x"] == list(range(10))
    lines = [np.frombuffer(base64.b64decode(line), "<f4") for line in shown["step_size"]["lines"]]
    assert np.array_equal(lines, np.exp(values(1)["step_size"].T).astype(np.float32))
    traced = visitor.get(f"/jobs/{job['id']}/traces").json()
    assert traced["iteration"] == [0, 1, 2]
    assert np.allclose(traced["lines"]["momentum"], [[1 / (1 + np.exp(-n / 3)) for n in range(3)]])
    assert visitor.get(f"/jobs/{job['id']}/learned?iteration=9").status_code == 404


def test_an_unknown_page_is_a_page(visitor):
    answer = visitor.get("/jobs/00000000-0000-0000-0000-000000000000")
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert UUID(int=0).hex[:8] in answer.text


def test_an_error_of_ours_is_a_page(visitor, client, sessions):
    job = client.post("/v1/jobs", json=document()).json()["id"]
    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET spec = '{}'"))
    answer = visitor.get(f"/jobs/{job}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (500, "text/html; charset=utf-8")
    assert "an error of ours; it is in the server&#39;s log" in answer.text
    assert "Not here" not in answer.text
    assert answer.headers["Connection"] == "close"
    asked_by_a_script = visitor.get(f"/jobs/{job}", headers={"X-Retrograd-Page": "1"})
    assert_problem(asked_by_a_script, 500, "internal_error")
    assert_problem(client.get(f"/v1/jobs/{job}"), 500, "internal_error")


def test_more_looks_at_what_is_learned_than_there_is_room_for_come_later(visitor, client, sessions, monkeypatch):
    job = client.post("/v1/jobs", json=document()).json()
    work(sessions, job, iterations=1)
    monkeypatch.setattr(pages, "_frames", threading.BoundedSemaphore(1))
    path = f"/jobs/{job['id']}/learned?iteration=0"
    with pages._frames:
        assert visitor.get(path).status_code == 503
    assert visitor.get(path).status_code == 200
    assert visitor.get(path.replace("=0", "=9")).status_code == 404
    assert visitor.get(path).status_code == 200, "its room is given back"


def test_thinning_keeps_every_peak_of_every_series():
    x = np.arange(10_000)
    series = [np.zeros(10_000) for _ in range(5)]
    peaks = [17, 2001, 5003, 7777, 9990]
    for line, peak in zip(series, peaks, strict=True):
        line[peak], line[peak + 1], line[0], line[-1] = 1.0, -2.0, 0.25, 0.75
    series[0][6000:6100] = np.nan
    shown = thinned(x, series, 400)
    assert len(shown.x) <= 400
    assert (np.diff(shown.x) > 0).all()
    for line in shown.lines:
        assert len(line) == len(shown.x)
        assert (np.nanmax(line), np.nanmin(line)) == (1.0, -2.0)
        assert (line[0], line[-1]) == (0.25, 0.75)
    assert np.isnan(shown.lines[0]).any()
    few = thinned(x[:5], [line[:5] for line in series], 400)
    assert few.x.tolist() == [0, 1, 2, 3, 4]


def test_a_form_of_another_site_signs_nobody_in_or_out(client, key):
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        for path in ("/login", "/logout"):
            with httpx.Client(base_url=client.base_url) as browser:
                answer = browser.post(path, data={"key": key}, headers=headers)
            assert answer.status_code == 403
            assert "Set-Cookie" not in answer.headers
    with httpx.Client(base_url=client.base_url) as browser:
        assert (
            browser.post("/login", data={"key": key}, headers={"Origin": str(client.base_url)}).status_code == 303
        )


def test_a_page_whose_reader_was_signed_out_is_told_so(client):
    with httpx.Client(base_url=client.base_url) as browser:
        assert_problem(browser.get("/?part=rows", headers={"X-Retrograd-Page": "1"}), 401, "unauthorized")


def test_a_job_about_uploaded_data_is_begun(visitor, client):
    data = client.post(
        "/v1/datasets",
        data={"name": "mine"},
        files={"file": making.npz(**making.arrays(np.random.default_rng(0)))},
    )
    text = visitor.get(f"/new?dataset={data.json()['id']}").text
    assert data.json()["id"] in text
    assert visitor.get("/new?dataset=ds_" + "0" * 24).status_code == 404


def test_the_page_of_the_api_loads_nothing_from_elsewhere(client):
    answer = client.get("/docs")
    assert "https://" not in answer.text
    assert client.get("/static/swagger-ui-bundle.js").headers["Cache-Control"] == "no-cache"


def test_a_cookie_that_takes_long_to_read_is_not_read(client):
    """Python's own reading of a quoted one takes its length squared."""
    for path in ("/healthz", "/", "/v1/jobs"):
        answer = client.get(path, headers={"Cookie": 'x="' + "\\1" * 4000 + '"'})
        assert_problem(answer, 431, "header_too_large")


def test_the_form_is_decoded_by_no_codec_that_its_sender_names(client):
    body = b'--X\r\nContent-Disposition: form-data; name="key"\r\n\r\n-' + b"a" * 4000 + b"\r\n--X--\r\n"
    for kind in ("multipart/form-data; boundary=X; charset=punycode", "text/plain", "application/json"):
        answer = client.post("/login", content=body, headers={"Content-Type": kind})
        assert answer.status_code == 401
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/login", content=b"key=\xff&next=%2f", headers=form).status_code == 401
    assert_problem(client.post("/login", content=b"key=" + b"a" * 9000, headers=form), 413, "body_too_large")


def test_differences_and_specifications_are_shown_as_far_as_anyone_reads(visitor, client):
    """Eight jobs of four megabytes would be held at once."""
    jobs = []
    for number in range(2):
        changed = document({"name": str(number), "hyperparameters.l2": {"initial": 0.001 * (number + 1)}})
        jobs.append(client.post("/v1/jobs", json=changed).json()["id"])
    text = visitor.get(f"/compare?job={jobs[0]}&job={jobs[1]}").text
    assert "hyperparameters.l2.initial" in text
    assert differences._cut("1" * 30_000).endswith("… (30000 characters)")
