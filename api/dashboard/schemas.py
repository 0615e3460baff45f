"""What the form for a job is made of: its JSON Schema, with the problems and data that this project can choose."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from api.schemas.jobs import JobRequest
from core import plugins
from core.programs.manifest import Manifest
from core.spec.problems import DATASET_ID
from core.store import datasets, programs
from core.store.models import Program

_UPLOADS = 50  # of each kind, the newest: of older ones the id can be typed

Schema = dict[str, Any]


def of_new_job(session: Session, project_id: UUID) -> Schema:
    """JSON Schema of a new job, in which `problem` also is one of each installed kind and of each uploaded program.

    What a browser is told beside the schema: `x-title` names an alternative; `x-suggest`, a list of `value` and
    `label`, is what a field may well hold; `x-training` is what `training` must say beside a problem.
    """
    schema = copy.deepcopy(_plain())
    stored = datasets.page(session, project_id, limit=_UPLOADS).stored
    data = [{"value": one.row.id, "label": one.row.name} for one in stored]
    sent = programs.page(session, project_id, limit=_UPLOADS).stored
    definitions, problem = schema["$defs"], schema["properties"]["problem"]
    alternatives = [one for one in problem["oneOf"] if not one["$ref"].endswith("/PluginProblem")]
    if sent:  # each is an alternative of its own
        alternatives = [one for one in alternatives if not one["$ref"].endswith("/ProgramProblem")]
    for stored_program in sent:
        name = f"program:{stored_program.row.id}"
        definitions[name] = _program(stored_program.row, definitions["ProgramProblem"])
        alternatives.append({"$ref": f"#/$defs/{name}"})
    for name, theirs in _installed().items():
        inner = theirs.pop("$defs", {})
        definitions |= {f"{name}:{part}": _moved(one, name) for part, one in inner.items()}
        definitions[name] = _moved(theirs, name)
        alternatives.append({"$ref": f"#/$defs/{name}"})
    problem["oneOf"] = alternatives
    problem.pop("discriminator", None)  # by `kind` alone, which several now have
    _suggest(definitions, data)
    return schema


@cache
def _plain() -> Schema:
    return JobRequest.model_json_schema()


def _installed() -> dict[str, Schema]:
    """Kinds that can be used here, by what the form calls them."""
    usable = {name: one for name, one in plugins.installed().items() if one.kind is not None}
    return {
        f"plugin:{name}": plugins.schema_of(one) | {"x-title": f"{name} (installed)"}
        for name, one in usable.items()
    }


def _program(row: Program, general: Schema) -> Schema:
    """The schema of `problem` in jobs about this program, from that in jobs about any."""
    manifest: Manifest = programs.manifest_of(row)
    schema = copy.deepcopy(general)
    names = [leaf.name for leaf in manifest.hyper]
    properties = schema["properties"]
    properties["id"] = {"const": row.id, "type": "string"}
    learn = properties["learn"]
    properties["learn"] = {
        "type": "array",
        "items": {"enum": names},
        "description": learn.get("description", ""),
    }
    initial = {"anyOf": [{"type": "number"}, {"type": "array"}]}
    properties["initial"] |= {"properties": dict.fromkeys(names, initial), "additionalProperties": False}
    properties["initial"].pop("default", None)
    if manifest.data:
        one_id = {"type": "string", "pattern": DATASET_ID}
        properties["data"] = {
            "type": "object",
            "properties": dict.fromkeys(manifest.data, one_id),
            "required": list(manifest.data),
            "description": properties["data"].get("description", ""),
        }
        schema["required"] = [*schema["required"], "data"]
    else:
        del properties["data"]
    return schema | {
        "x-title": f"{row.name or row.id} (program)",
        "x-training": {"num_steps": manifest.num_steps},
    }


def _moved(node: Any, name: str) -> Any:
    """With references that lead to where the definitions now stand."""
    if isinstance(node, dict):
        return {
            key: f"#/$defs/{name}:{one.rpartition('/')[2]}" if key == "$ref" else _moved(one, name)
            for key, one in node.items()
        }
    return [_moved(one, name) for one in node] if isinstance(node, list) else node


def _suggest(node: Any, data: list[dict[str, str]]) -> None:
    """Mark all fields that hold the id of a data set."""
    if isinstance(node, dict):
        if node.get("pattern") == DATASET_ID:
            node["x-suggest"] = data
        for one in list(node.values()):
            _suggest(one, data)
    elif isinstance(node, list):
        for one in node:
            _suggest(one, data)
