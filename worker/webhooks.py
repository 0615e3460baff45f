"""Sends what webhooks are to be told: a loop of its own beside the janitor's, as receivers may take their time.

At least once: a delivery is taken for a while before it is sent, and comes up again unless its end is written down.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from core.store import deliveries
from core.store.deliveries import Due
from worker.sender import Answer, Unsent

ATTEMPTS = 10
AT_ONCE = 16
AT_ONCE_OF_ONE = 8  # project
AT_ONCE_TO_ONE = 2  # receiver: one that hangs, on many ports or not, must not hold up others
TAKEN_SECONDS = 120.0  # more than an attempt takes, slow name servers included

_FIRST_SECONDS, _GROWTH, _MOST_SECONDS = 20.0, 3.0, 8 * 3600.0
_JITTER = 0.2
_GONE = 410
_BUSY = (429, 503)
_STOP_SECONDS = 3.0

log = logging.getLogger(__name__)


def wait_after(attempt: int, draw: float, retry_after: float | None = None) -> float | None:
    """Seconds until the next attempt after `attempt` of them failed, None when there is none.

    20 s, then three times as long every time, 8 hours at most: about 22 hours in all. A receiver may ask for more, up
    to the same 8 hours.

    Args:
        attempt: 1 is the first.
        draw: uniform in [0, 1]: how much earlier or later, up to a fifth, so that many are not sent again at once.
        retry_after: what the receiver asked for, seconds.
    """
    if attempt >= ATTEMPTS:
        return None
    wait = min(_FIRST_SECONDS * _GROWTH ** (attempt - 1), _MOST_SECONDS) * (1 + _JITTER * (2 * draw - 1))
    return max(wait, min(retry_after or 0.0, _MOST_SECONDS))


class Deliverer:
    """One process's deliveries. Any number may be at work at once."""

    def __init__(self, sessions: sessionmaker[Session], send: Callable[[Due], Answer]) -> None:
        self._sessions, self._send = sessions, send
        self._busy: Counter[str] = Counter()  # attempts under way, by whom they go to
        self._of: Counter[UUID] = Counter()  # the same, by project
        self._changed = threading.Condition()
        self._ended = 0  # attempts
        self._stopping = False

    def run(self, seconds: float, survive: Callable[[Callable[[], None]], None]) -> None:
        """Deliver until `stop`; looks every `seconds`, and when a place becomes free.

        Args:
            survive: calls what it is given, and logs what that raises.
        """
        while not self._stopping:
            ended = self._ended  # before, or an end during `deliver` would be missed
            survive(self.deliver)
            with self._changed:
                self._changed.wait_for(partial(self._has_news, ended), seconds)

    def _has_news(self, ended: int) -> bool:
        return self._stopping or self._ended > ended

    def stop(self) -> None:
        """Take no more, and wait a little for what is under way. What is not done by then is sent again later."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self.drain(_STOP_SECONDS)

    def drain(self, seconds: float) -> bool:
        """Wait until nothing is under way, `seconds` at most; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, seconds)

    def deliver(self) -> None:
        """Start to send what is due, as far as there are places; returns without waiting for answers."""
        while not self._stopping:
            with self._changed:
                if self._busy.total() >= AT_ONCE:
                    return
                authorities = [authority for authority, number in self._busy.items() if number >= AT_ONCE_TO_ONE]
                projects = [project for project, number in self._of.items() if number >= AT_ONCE_OF_ONE]
            with self._sessions.begin() as session:
                due = deliveries.claim(session, TAKEN_SECONDS, authorities=authorities, projects=projects)
            if due is None:
                return
            self._begin(due)

    def _begin(self, due: Due) -> None:
        with self._changed:
            self._busy[due.authority] += 1
            self._of[due.project_id] += 1
        # a daemon: a receiver that hangs must not keep the process from ending
        thread = threading.Thread(target=self._attempt, args=[due], name=f"webhook {due.id}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._end(due)
            raise

    def _end(self, due: Due) -> None:
        with self._changed:
            self._busy[due.authority] -= 1
            self._of[due.project_id] -= 1
            self._busy += Counter()  # forgets those at 0
            self._of += Counter()
            self._ended += 1
            self._changed.notify_all()

    def _attempt(self, due: Due) -> None:
        try:
            answer, outcome = self._answer(due)
            with self._sessions.begin() as session:
                _settle(session, due, answer, outcome)
            log.info("job %s: delivery %s, attempt %d: %s", due.job_id, due.id, due.attempt, outcome)
        except SQLAlchemyError as error:
            reason = str(error).partition("\n")[0]
            log.warning("delivery %s: its outcome could not be kept; it is sent again: %s", due.id, reason)
        finally:
            self._end(due)

    def _answer(self, due: Due) -> tuple[Answer | None, str]:
        """What came back, and in words."""
        try:
            answer = self._send(due)
        except Unsent as error:
            return None, str(error)
        except Exception:
            log.exception("delivery %s failed", due.id)
            return None, "an error of ours"
        more = {_GONE: ": the webhook is disabled"}.get(answer.status, "")
        if 300 <= answer.status < 400:
            more = "; redirects are not followed"
        return answer, f"answered {answer.status}{more}"


def _settle(session: Session, due: Due, answer: Answer | None, outcome: str) -> None:
    status = None if answer is None else answer.status
    if status is not None and 200 <= status < 300:
        deliveries.delivered(session, due)
    elif status == _GONE:
        deliveries.gone(session, due, outcome)
    else:
        asked = answer.retry_after if answer is not None and status in _BUSY else None
        wait = wait_after(due.attempt, random.random(), asked)  # noqa: S311 - no secret
        deliveries.failed(session, due, outcome, wait)
