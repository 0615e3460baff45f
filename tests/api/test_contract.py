"""The service does what its OpenAPI document says: schemathesis makes requests of it, good and bad, and checks answers."""

from collections import Counter
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, assume, settings
from pydantic import SecretStr
from schemathesis import Config

from api.app import create_app
from core.config import Settings
from tests.conftest import fresh_settings, serving

ACCEPTED = ["2xx", "3xx", "401", "403", "404", "409", "429"]
MAY_REFUSE = {  # what the document says is right, and why that is not all
    "POST /v1/jobs": [
        "422"
    ],  # what a specification may say depends on its other parts, and on the data sets there are
    "POST /v1/datasets": ["400", "415", "422"],  # not all bytes are data sets
    "POST /v1/programs": ["400", "415", "422"],  # nor programs
    "GET /v1/jobs": ["422"],  # only we can tell what is a cursor
    "GET /v1/datasets": ["422"],
    "GET /v1/programs": ["422"],
}
REFUSED = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "429"]
MAY_ACCEPT = {  # a number where a preset's name is due is a name, as it stands in a URL
    "POST /v1/jobs/cancel": ["202"],
    "GET /v1/jobs": ["200"],
}
CONFIG = Config.from_dict(
    {
        "operations": [
            {
                "include-name": name,
                "checks": {
                    "positive_data_acceptance": {"expected-statuses": ACCEPTED + MAY_REFUSE.get(name, [])},
                    "negative_data_rejection": {"expected-statuses": REFUSED + MAY_ACCEPT.get(name, [])},
                },
            }
            for name in MAY_REFUSE | MAY_ACCEPT
        ]
    }
)
ASKED = Counter()
DOCUMENT = create_app(Settings(database_url="postgresql+psycopg://")).openapi()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT, config=CONFIG)


@pytest.fixture(scope="module")
def service(postgres, migrated, valkey):
    with fresh_settings(postgres, migrated, valkey) as fresh:
        settings = fresh.model_copy(
            update={"metrics_token": SecretStr("that of a scraper")}
        )  # else nothing is there
        with serving(settings) as client:
            yield client
            print(f"\n{ASKED.total()} cases of {len(ASKED)} operations keep the contract")
            assert client.get("/v1/jobs").status_code == 200  # nothing has revoked the key that all was asked with


def keeps_its_word(case, service):
    assume(not lost_on_the_way(case))
    ASKED[case.operation.label] += 1
    case.call_and_validate(
        base_url=str(service.base_url), headers={"Authorization": service.headers["Authorization"]}
    )


def lost_on_the_way(case):
    """Query parameters that no URL says, such as empty lists: a request without them may be right."""
    sent = requests.Request(method="GET", url="http://here", params=case.query or {}).prepare().url
    return set(case.query or {}) - set(parse_qs(urlsplit(sent).query, keep_blank_values=True))


@pytest.mark.parametrize(("query", "lost"), [({"limit": 1, "x": []}, {"x"}), ({"limit": 1, "x": ""}, set())])
def test_only_what_no_url_says_is_lost(query, lost):
    assert lost_on_the_way(SCHEMA["/v1/datasets"]["GET"].Case(query=query)) == lost


@SCHEMA.parametrize()
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_each_operation_keeps_its_word(case, service):
    keeps_its_word(case, service)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@SCHEMA.parametrize()
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_each_operation_keeps_its_word_in_many_cases(case, service):
    keeps_its_word(case, service)
