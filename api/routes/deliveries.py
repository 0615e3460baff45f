"""What a job's webhook was told, or is to be told."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter

from api.deps import ProjectDep, SessionDep
from api.schemas.webhooks import DeliveryList, DeliveryRead
from core.store import deliveries, jobs

router = APIRouter(prefix="/v1/jobs", tags=["webhooks"])

_MOST = 100


@router.get("/{job_id}/deliveries", summary="List deliveries")
def list_deliveries(job_id: UUID, project: ProjectDep, session: SessionDep) -> DeliveryList:
    """How far each message to the job's webhook has come. None where the job has no webhook, or has not ended."""
    job = jobs.get(session, project, job_id)
    rows = deliveries.newest(session, job.id, _MOST)
    return DeliveryList(data=[DeliveryRead.model_validate(row) for row in rows])


@router.post("/{job_id}/deliveries/{delivery_id}/redeliver", status_code=202, summary="Deliver again")
def redeliver(job_id: UUID, delivery_id: UUID, project: ProjectDep, session: SessionDep) -> DeliveryRead:
    """Send the same message under the same id from its first attempt on. A webhook that was disabled is so no more."""
    job = jobs.get(session, project, job_id)
    return DeliveryRead.model_validate(deliveries.again(session, job.id, delivery_id))
