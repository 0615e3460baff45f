"""The calls are those of the API, all of them; and the two clients have the same methods."""

import inspect

import pytest

from api.app import create_app
from core.config import Settings
from retrograd.client import async_jobs, async_project, calls, clients, jobs, project

NOT_OURS = {
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",  # of machines, not of projects
}
TWINS = {
    **{name: (getattr(jobs, name), getattr(async_jobs, f"Async{name}")) for name in ("Job", "Jobs")},
    **{
        name: (getattr(project, name), getattr(async_project, f"Async{name}"))
        for name in ("Datasets", "Programs", "Presets", "Keys")
    },
    "Client": (clients.Client, clients.AsyncClient),
}


def made():
    """Every call that `calls` can make, with names of parameters as their values."""
    for name, function in vars(calls).items():
        if inspect.isfunction(function) and function.__module__ == calls.__name__ and not name.startswith("_"):
            given = {
                each: {} if each in ("files", "spec") else f"{{{each}}}"
                for each in inspect.signature(function).parameters
            }
            yield function(**given | ({"preset": None} if name == "create_job" else {}))


def test_every_route_of_the_api_is_a_call_and_every_call_a_route():
    document = create_app(Settings(database_url="postgresql+psycopg://nobody@127.0.0.1:9/none")).openapi()
    routes = {
        f"{method.upper()} {path}".replace("{name}.{form}", "{name}.{format}")
        for path, methods in document["paths"].items()
        for method in methods
    }
    called = {f"{call.method} {call.path}".replace("%7B", "{").replace("%7D", "}") for call in made()}
    called = {
        call.replace("/{change}", f"/{each}") for call in called for each in ("cancel", "pause", "resume", "retry")
    }
    assert called == routes - NOT_OURS


def test_what_is_sent_again_changes_nothing_the_second_time():
    repeatable = {f"{call.method} {call.path}" for call in made() if call.repeatable and call.method != "GET"}
    assert repeatable == {"POST /v1/jobs", "POST /v1/datasets", "POST /v1/programs"}
    assert all(call.repeatable for call in made() if call.method == "GET")


def test_a_creation_has_one_key_however_often_its_request_is_made():
    call = calls.create_job({}, None, None)
    assert call.headers == call.headers
    assert call.headers["Idempotency-Key"] != calls.create_job({}, None, None).headers["Idempotency-Key"]


@pytest.mark.parametrize("key", ["", "k" * 256, "sec\nret", "schlüssel"])
def test_a_key_that_no_server_takes_is_refused_and_not_repeated(key):
    with pytest.raises(ValueError, match="idempotency_key: is no key") as caught:
        calls.create_job({}, None, key)
    assert not key or key not in str(caught.value)


def public(one):
    """Methods by name."""
    return {
        name: method
        for name, method in vars(one).items()
        if inspect.isfunction(method) and not name.startswith("_")
    }


@pytest.mark.parametrize("name", TWINS)
def test_the_clients_have_the_same_methods_with_the_same_parameters(name):
    waiting, awaited = (
        {
            name: [(each.name, each.default, each.kind) for each in inspect.signature(method).parameters.values()]
            for name, method in public(one).items()
        }
        for one in TWINS[name]
    )
    assert waiting == awaited


@pytest.mark.parametrize("name", TWINS)
def test_public_methods_say_what_they_do(name):
    assert all(method.__doc__ for method in public(TWINS[name][0]).values())
