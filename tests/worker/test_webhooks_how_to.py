"""The receiver of docs/how-to/webhooks.md is run here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from core.receivers import any_address, new_secret
from core.store import deliveries, jobs, webhooks
from retrograd.local.servers import free_port
from tests.builders import create, eventually
from tests.store.test_leases import write
from worker.sender import Sender
from worker.webhooks import ATTEMPTS, Deliverer, wait_after

PAGE = (Path(__file__).parents[2] / "docs/how-to/webhooks.md").read_text()


@pytest.fixture
def receiver(tmp_path):
    """Its URL, its secret, and what it printed."""
    program = re.search(r"<!-- test: receiver -->\n```python\n(.*?)```", PAGE, re.DOTALL).group(1)
    secret, port, printed = new_secret(), free_port(), tmp_path / "printed"
    environ = {**os.environ, "WEBHOOK_SECRET": secret, "PORT": str(port)}
    with printed.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", program], env=environ, stdout=output, stderr=subprocess.DEVNULL
        )
        try:
            eventually(lambda: answers(port))
            yield f"http://127.0.0.1:{port}/hook", secret, printed
        finally:
            process.terminate()
            process.wait(10)


def answers(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/").status_code == 501
    except httpx.TransportError:
        return False


def test_it_takes_what_is_signed_once(receiver, sessions, project):
    url, secret, printed = receiver
    job_id = create(sessions, project)
    write(sessions, webhooks.attach, job_id, url, secret)
    write(sessions, jobs.cancel, project, job_id)
    with sessions() as session:
        (delivery,) = deliveries.newest(session, job_id, 1)
    deliverer = Deliverer(sessions, Sender(any_address).send)
    for _ in range(2):
        deliverer.deliver()
        assert deliverer.drain(20)
        with sessions() as session:
            assert deliveries.newest(session, job_id, 1)[0].delivered_at is not None
        write(sessions, deliveries.again, job_id, delivery.id)
    assert printed.read_text() == f"job.cancelled {job_id}\n"
    forged = {"webhook-id": "1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
    assert httpx.post(url, content=delivery.payload, headers=forged).status_code == 400
    assert httpx.post(url, content=delivery.payload).status_code == 400


def test_its_schedule_is_the_real_one():
    units = {"s": 1, "min": 60, "h": 3600}
    listed = re.search(r"attempts, after (.*?),\s+each", PAGE, re.DOTALL).group(1)
    told = [int(number) * units[unit] for number, unit in re.findall(r"(\d+) (s|min|h)", listed)]
    assert told == pytest.approx([wait_after(attempt, 0.5) for attempt in range(1, ATTEMPTS)], rel=0.02)
