"""What the API says of itself: an OpenAPI document of which good clients can be generated.

Operations are named as their functions are, problems are one schema wherever they are answered, and what is posted has
the same schema as what is read.
"""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from api.schemas.service import Problem

PROBLEM_JSON = "application/problem+json"
FILE = {"schema": {"type": "string", "format": "binary"}}
"""Content of a response that is bytes."""

_NAMES = {"Kind": "EventKind", "Scope": "KeyScope", "State": "JobState"}  # of schemas: here there are no modules
_REFERENCE = re.compile(r'"#/components/schemas/(\w+)"')

_TAGS = {
    "jobs": "Meta-optimizations: create, follow, change, and what they have found.",
    "webhooks": "What the end of a job was told to.",
    "datasets": "Data of one's own.",
    "programs": "Problems of one's own, exported by JAX.",
    "presets": "Jobs that are ready to be queued, and what jobs may be about.",
    "project": "What the caller's project may have, and has.",
    "keys": "API keys of the project.",
    "health": "For whoever runs the service.",
}


class Described(FastAPI):
    """An application with such a document."""

    def __init__(self, **options: Any) -> None:
        problems = {"model": Problem, "content": {PROBLEM_JSON: {}}}
        super().__init__(
            title="Retrograd",
            version="1",
            summary="Learns hyperparameters by gradient descent through whole training runs.",
            openapi_tags=[{"name": name, "description": said} for name, said in _TAGS.items()],
            generate_unique_id_function=_name,
            separate_input_output_schemas=False,
            responses={
                "4XX": {"description": "What is wrong with the request, after RFC 9457"} | problems,
                "5XX": {"description": "What is wrong with the service, after RFC 9457"} | problems,
            },
            **options,
        )

    def openapi(self) -> dict[str, Any]:
        """The document."""
        if self.openapi_schema is None:
            document = super().openapi()
            for operation in (operation for path in document["paths"].values() for operation in path.values()):
                _answer_problems(operation["responses"])
                _without_null(operation.get("requestBody", {}))
            for schema in document["components"]["schemas"].values():
                _without_defaults_of_unions(schema)
            self.openapi_schema = _renamed(document)
        return self.openapi_schema


def _name(route: APIRoute) -> str:
    return route.name


def _answer_problems(responses: dict[str, Any]) -> None:
    """In their own type: FastAPI has models of responses in that of the route's answer."""
    for status in ("4XX", "5XX"):
        schema = next(one["schema"] for one in responses[status]["content"].values() if "schema" in one)
        responses[status]["content"] = {PROBLEM_JSON: {"schema": schema}}


def _without_null(body: dict[str, Any]) -> None:
    """A body that may be left out is no body that may be null."""
    for content in body.get("content", {}).values():
        some = [one for one in content["schema"].get("anyOf", []) if one != {"type": "null"}]
        if len(some) == 1:
            content["schema"] = some[0]


def _without_defaults_of_unions(schema: dict[str, Any]) -> None:
    """A default that is an object of one of several schemas is more than generators know to write down."""
    for field in schema.get("properties", {}).values():
        default = field.get("default")
        if "oneOf" in field and isinstance(default, dict):
            del field["default"]
            field["description"] = f"{json.dumps(default)} unless given"


def _renamed(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    for name, new in _NAMES.items():
        schemas[new] = schemas.pop(name) | {"title": new}
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    text = _REFERENCE.sub(_new_reference, json.dumps(document))
    renamed: dict[str, Any] = json.loads(text)
    return renamed


def _new_reference(found: re.Match[str]) -> str:
    return f'"#/components/schemas/{_NAMES.get(found[1], found[1])}"'
