"""Programs: send, look, delete."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from functools import partial
from pathlib import Path as FilePath
from typing import Annotated, BinaryIO, cast

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response

from api.checks import Checker
from api.deps import ProjectDep, SenderDep, SessionDep
from api.parameters import Absent
from api.schemas.programs import ProgramPage, ProgramRead, ProgramSummary
from api.uploads import NAME_FIELD, Keeper, Sent, received
from core.errors import InvalidProgram
from core.store import programs
from core.store.models import Program
from core.store.uploads import Stored

_FORM = {
    "type": "object",
    "required": ["name", "file"],
    "additionalProperties": False,
    "properties": {
        "name": NAME_FIELD,
        "file": {
            "type": "string",
            "format": "binary",
            "description": "what `retrograd.export_problem` has written",
        },
    },
}
_ZIP = b"PK\x03\x04"
_SEND = "send as `file` what retrograd.export_problem has written"

router = APIRouter(prefix="/v1/programs", tags=["programs"])

ProgramId = Annotated[str, Path(pattern=r"^pr_[0-9a-f]{24}$")]


@router.post(
    "",
    status_code=201,
    summary="Send a program",
    responses={200: {"model": ProgramRead, "description": "The project has this program under this name already"}},
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
)
async def upload_program(request: Request, project: SenderDep, response: Response) -> ProgramRead:
    """Check a problem of your own, exported by JAX, and keep it; a job names it by its `id`. The same is stored once.

    It is read, compiled and run for a few steps in a process of its own. Refused are operations that are not known to
    be harmless and repeatable, results that are not finite, and what takes too much time or memory.
    """
    async with received(
        request, project, texts=(), files=("file",), wrong=InvalidProgram, accepted="the program as file"
    ) as (sent, keeper):
        stored, is_new = await to_thread.run_sync(partial(_keep, keeper, sent, request.app.state.checker))
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/programs/{stored.row.id}"
    return ProgramRead.read(stored)


@router.get("", summary="List programs, newest first")
def list_programs(
    project: ProjectDep,
    session: SessionDep,
    after: Annotated[str | Absent, Query(description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="rows on a page")] = 20,
) -> ProgramPage:
    """One page of the project's programs."""
    page = programs.page(session, project, after=after, limit=limit)
    return ProgramPage(data=[ProgramSummary.of(one) for one in page.stored], next=page.next)


@router.get("/{program_id}", summary="Look at a program")
def get_program(program_id: ProgramId, project: ProjectDep, session: SessionDep) -> ProgramRead:
    """What its functions take and return, what they are made of, bytes and digest."""
    return ProgramRead.read(programs.get(session, project, program_id))


@router.delete("/{program_id}", status_code=204, summary="Delete a program")
def delete_program(program_id: ProgramId, project: ProjectDep, session: SessionDep) -> None:
    """Delete a program that no job still runs. Results stay, with its digest."""
    programs.remove(session, project, program_id)


def _keep(keeper: Keeper, sent: Sent, checker: Checker) -> tuple[Stored[Program], bool]:
    if "file" not in sent.files:
        raise InvalidProgram(f"file: is needed; {_SEND}")
    with tempfile.NamedTemporaryFile(suffix=".zip") as named:
        file = cast(BinaryIO, named)
        shutil.copyfileobj(sent.files["file"], file)
        size = file.tell()
        file.flush()
        file.seek(0)
        if file.read(len(_ZIP)) != _ZIP:
            raise InvalidProgram(f"file: {'is no zip archive' if size else 'is empty'}; {_SEND}")
        summary = checker.check(FilePath(named.name))
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        return keeper.keep(programs.PROGRAMS, sent.name, file, sha256, size, summary)
