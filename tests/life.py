"""A job's life as a few plain fields: what the store and the API must agree with, whatever happens in what order."""

from dataclasses import dataclass, field

NUM_ITERATIONS = 4  # of the small job
MAX_ATTEMPTS = 3

ENDED = ("succeeded", "failed", "cancelled")
UNENDED = ("queued", "running", "paused")

AFTER = {  # each kind of event: the state that it leads to, from where else than the one before
    "created": "queued",
    "started": "running",
    "requeued": "queued",
    "paused": "paused",
    "retried": "queued",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}


@dataclass
class Life:
    """What is true of one job. Methods return whether they are allowed; those that are not change nothing."""

    state: str = "queued"
    cancel: bool = False  # requested
    pause: bool = False  # requested
    attempt: int = 0
    idle: int = 0  # attempts without progress
    epoch: int = 0
    done: int = 0  # meta-iterations
    lease_is_over: bool = False
    to_publish: bool = True  # in the outbox
    events: list[str] = field(default_factory=lambda: ["created"])

    def row(self):
        """What stands in the job's row."""
        return {
            "state": self.state,
            "cancel_requested": self.cancel,
            "pause_requested": self.pause,
            "attempt": self.attempt,
            "attempts_without_progress": self.idle,
            "lease_epoch": self.epoch,
            "meta_iteration": self.done,
            "last_event": len(self.events),
        }

    # what its owner may do

    def cancel_it(self):
        if self.state in ENDED:
            return False
        if not self.cancel:
            self.cancel = True
            if self.state == "running":
                self.events.append("cancel_requested")
            else:
                self._becomes("cancelled")
        return True

    def pause_it(self):
        if self.state == "paused" or (self.state == "running" and self.pause):
            return True
        if self.state not in ("queued", "running") or self.cancel:
            return False
        if self.state == "queued":
            self._becomes("paused")
        else:
            self.pause = True
            self.events.append("pause_requested")
        return True

    def resume_it(self):
        if self.state == "paused":
            self._queue("resumed")
        elif self.pause:
            self.pause = False
            self.events.append("resumed")
        else:
            return False
        return True

    def retry_it(self):
        if self.state not in ("failed", "cancelled"):
            return False
        self.cancel, self.pause, self.idle = False, False, 0
        self._queue("retried")
        return True

    def may_be_deleted(self):
        return self.state in ENDED

    # what workers may do

    def claim(self):
        if self.state != "queued":
            return False
        self.attempt, self.idle, self.epoch = self.attempt + 1, self.idle + 1, self.epoch + 1
        self.lease_is_over = False
        self._becomes("running", "started")
        return True

    def is_held_at(self, epoch):
        return self.state == "running" and self.epoch == epoch

    def wish(self):
        return "CANCEL" if self.cancel else "PAUSE" if self.pause else "GO_ON"

    def renew(self):
        self.lease_is_over = False

    def save_start(self):
        self.events.append("begun")

    def save_next_iteration(self):
        """Returns its number; the last one again, when there are no more."""
        self.idle = 0
        if self.done == NUM_ITERATIONS:
            return self.done - 1
        self.done += 1
        self.events.append("iteration")
        return self.done - 1

    def save_last_iteration_again(self):
        if self.done == 0:
            return self.save_next_iteration()
        self.idle = 0
        return self.done - 1

    def end(self, state):
        self.pause = False
        self._becomes(state)

    def fail(self):
        self.end("failed")

    def give_back(self):
        self.idle = max(self.idle - 1, 0)
        self._leave_worker(lost=False)

    # what the janitor does

    def reap(self):
        if self.state == "running" and self.lease_is_over:
            self._leave_worker(lost=self.idle >= MAX_ATTEMPTS)

    def _leave_worker(self, lost):
        if self.cancel:
            self._becomes("cancelled")
        elif lost:
            self._becomes("failed")
        elif self.pause:
            self._becomes("paused")
        else:
            self._queue("requeued")
        self.pause = False

    def _queue(self, event):
        self.to_publish = True
        self._becomes("queued", event)

    def _becomes(self, state, event=None):
        self.state = state
        self.events.append(event or state)


def state_told_by(events):
    """The state that a job must be in by what its events say, from their kinds alone."""
    state = None
    for kind in events:
        state = AFTER.get(kind, "queued" if (kind, state) == ("resumed", "paused") else state)
    return state
