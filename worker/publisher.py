"""Sending wake-ups. A connection of its own, that gives up within seconds: the defaults wait for minutes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from kombu.connection import Connection
from kombu.messaging import Producer

from worker.app import RUN_JOB, app

_OPTIONS = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0, "max_retries": 0, "retry_on_timeout": False}


class Publisher:
    """An open connection to the broker."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._producer: Producer = app.amqp.Producer(connection, auto_declare=False)

    def send(self, job_id: UUID, queue: str) -> None:
        """Wake a worker of the queue. What the broker raises, the caller gets."""
        app.send_task(RUN_JOB, (str(job_id),), queue=queue, producer=self._producer, retry=False)

    def depth(self, queue: str) -> int:
        """Messages that wait in the queue."""
        return int(self._connection.default_channel.queue_declare(queue).message_count)


@contextmanager
def publishing(broker_url: str) -> Iterator[Publisher]:
    """Connect for one round. A connection that is kept would not notice that the broker forgot its queues."""
    with Connection(broker_url, connect_timeout=2, transport_options=_OPTIONS) as connection:
        yield Publisher(connection)
