"""The form for a job, made of its JSON Schema: with the problems that are installed here and those that were uploaded."""

import json

import pytest

from api import checks
from tests.builders import document
from tests.plugins.conftest import installed  # noqa: F401
from tests.programs import making
from tests.programs.test_api import send, upload

pytestmark = pytest.mark.slow

KIND = """
import numpy as np
from pydantic import BaseModel, Field
from core.plugins import ProblemKind

class Point(BaseModel):
    height: float = Field(1.0, description="of the point")

class Kind(ProblemKind):
    "Pull weights towards a point."
    class Settings(BaseModel):
        size: int = Field(description="how many weights")
        point: Point = Point()

    def params(self, asked):
        if asked.settings.size > 9:
            raise ValueError("size is above 9; lower it")
        return {"w": (asked.settings.size,)}

    def hyper(self, asked):
        return {"log_step_size": np.full(asked.num_steps, -1.0), "point": asked.settings.point.height}

    def problem(self, asked, data):
        raise NotImplementedError
"""


def document_of(page):
    return json.loads(page.locator("#json").input_value())


def fill(page, path, value):
    box = page.locator(f'[data-path="{path}"]')
    box.fill(value)
    box.press("Tab")


def test_a_job_is_made_by_the_form(signed_in, client, sessions):
    signed_in.goto("/new?preset=digits-schedules")
    field = signed_in.get_by_label("num iterations").first
    field.fill("7")
    field.press("Tab")
    assert json.loads(signed_in.locator("#json").input_value())["meta"]["num_iterations"] == 7
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.wait_for_url("**/jobs/*")
    (made,) = client.get("/v1/jobs").json()["data"]
    assert made["progress"]["of"] == 7


def test_text_that_is_no_json_is_told_and_mended(signed_in, client):
    """A browser may keep what stood in the text when its page is loaded again."""

    def broken(route):
        answer = route.fetch()
        kept, _, rest = answer.text().partition('<textarea id="json"')
        opening, _, rest = rest.partition(">")
        assert 'autocomplete="off"' in opening
        route.fulfill(response=answer, body=f'{kept}<textarea id="json"{opening}>{{"name": {rest}')

    signed_in.route("**/new?preset=digits-schedules", broken)
    signed_in.goto("/new?preset=digits-schedules")
    signed_in.get_by_role("alert").get_by_text("This is not JSON").wait_for()
    signed_in.locator("#json").fill(json.dumps(document({"name": "mended"})))
    signed_in.locator("#json").blur()
    signed_in.get_by_role("alert").wait_for(state="hidden")
    assert signed_in.get_by_label("name", exact=True).first.input_value() == "mended"
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.wait_for_url("**/jobs/*")
    (made,) = client.get("/v1/jobs").json()["data"]
    assert made["name"] == "mended"


def test_a_mistake_is_told_at_its_field(signed_in):
    signed_in.goto("/new?preset=digits-schedules")
    field = signed_in.get_by_label("num iterations").first
    field.fill("-1")
    field.press("Tab")
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.get_by_role("alert").get_by_text("meta.num_iterations").wait_for()
    assert "mistaken" in field.get_attribute("class")


def test_an_installed_problem_has_fields_of_its_own(signed_in, client, installed):  # noqa: F811
    installed("pulls", "1.2", {"pull": "pull:Kind"}, {"pull": KIND})
    signed_in.goto("/new?preset=digits-schedules")
    signed_in.get_by_label("kind of problem").select_option(label="pull (installed)")
    assert document_of(signed_in)["problem"] == {"kind": "plugin", "name": "pull"}
    assert "hyperparameters" not in document_of(signed_in), "it has its own"
    signed_in.get_by_text("how many weights").wait_for()
    fill(signed_in, "problem.settings.size", "30")
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.get_by_role("alert").get_by_text("size is above 9; lower it").wait_for()
    fill(signed_in, "problem.settings.size", "3")
    signed_in.locator("details[data-path='problem.settings.point'] > summary").click()
    signed_in.get_by_label("use point").check()
    fill(signed_in, "problem.settings.point.height", "2.5")
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.wait_for_url("**/jobs/*")
    (made,) = client.get("/v1/jobs").json()["data"]
    problem = client.get(f"/v1/jobs/{made['id']}").json()["spec"]["problem"]
    assert problem["settings"] == {"size": 3, "point": {"height": 2.5}}
    assert problem["version"] == "1.2"
    signed_in.get_by_role("link", name="New from this").click()
    chosen = signed_in.get_by_label("kind of problem")
    chosen.wait_for()
    assert chosen.locator("option:checked").text_content() == "pull (installed)"


def test_an_uploaded_program_has_fields_of_its_own(signed_in, client, monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "_CHECK", "tests.programs.checked")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    program, data = send(client, name="recurrent").json(), upload(client, name="thirty of them")
    signed_in.goto("/new?preset=digits-schedules")
    signed_in.get_by_label("kind of problem").select_option(label="recurrent (program)")
    assert document_of(signed_in)["training"]["num_steps"] == making.STEPS, "as the program has it"
    field = signed_in.locator('[data-path="problem.data.train"]')
    assert field.evaluate("box => [...box.list.options].map((one) => [one.value, one.label])") == [
        [data["id"], "thirty of them"]
    ]
    fill(signed_in, "problem.data.train", data["id"])
    signed_in.get_by_label("log_step").check()
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.wait_for_url("**/jobs/*")
    (made,) = client.get("/v1/jobs").json()["data"]
    problem = client.get(f"/v1/jobs/{made['id']}").json()["spec"]["problem"]
    assert (problem["id"], problem["data"], problem["learn"]) == (
        program["id"],
        {"train": data["id"]},
        ["log_step"],
    )


def test_a_problem_that_is_not_here_is_not_taken_for_another(signed_in):
    signed_in.goto("/new?preset=digits-schedules")
    wanted = document_of(signed_in) | {"problem": {"kind": "plugin", "name": "elsewhere"}}
    signed_in.locator("#json").fill(json.dumps(wanted))
    signed_in.locator("#json").blur()
    chosen = signed_in.get_by_label("kind of problem").locator("option:checked")
    assert chosen.text_content() == "choose"
    assert document_of(signed_in) == wanted
