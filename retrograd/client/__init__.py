"""A typed client of the HTTP API: submit jobs, follow them, and have what they learned as arrays.

`Client` waits for answers, `AsyncClient` is awaited. What goes over the wire is said once for both: `calls` are the
requests, `exchanges` what takes several of them, and `carriers` what sends them.
"""

from __future__ import annotations

from retrograd.client.async_jobs import AsyncJob as AsyncJob
from retrograd.client.clients import AsyncClient as AsyncClient
from retrograd.client.clients import Client as Client
from retrograd.client.errors import ApiError as ApiError
from retrograd.client.errors import IncompleteId as IncompleteId
from retrograd.client.errors import InvalidKey as InvalidKey
from retrograd.client.errors import ServerUnreachable as ServerUnreachable
from retrograd.client.jobs import Job as Job
from retrograd.client.seen import ENDED as ENDED
