"""Processes that kill themselves at a moment that a signal from outside would hardly hit.

    python -m tests.faults.dying MOMENT [arguments of the process]

They are the service's own in all else.
"""

import os
import signal
import sys

BEFORE_REPLY = "api:before-reply"  # the job is committed, its answer is not sent
MID_PUBLISH = "janitor:mid-publish"  # a message is sent, its wake-up is still in the outbox
MID_REAP = "janitor:mid-reap"  # jobs are taken from lost workers, and that is not committed
POISON = "worker:poison"  # in the child, whenever it runs a job of this name


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def dies_before_reply():
    """The ASGI application, which dies as it has created a job and is about to say so."""
    from api.app import create_app

    served = create_app()

    async def app(scope, receive, send):
        if (scope["type"], scope.get("method"), scope.get("path")) == ("http", "POST", "/v1/jobs"):
            send = die
        await served(scope, receive, send)

    return app


def _poisoned():
    """What the child imports before its first job."""
    from worker import tasks

    learn = tasks.learn

    def learn_or_die(lease, *arguments):
        from core.store import leases

        if lease.run(leases.work).spec.name == POISON:
            die()
        learn(lease, *arguments)

    tasks.learn = learn_or_die


def _die_after(module, name):
    function = getattr(module, name)

    def last(*arguments, **named):
        function(*arguments, **named)
        die()

    setattr(module, name, last)


def main(moment, arguments):
    if moment == BEFORE_REPLY:
        import uvicorn

        uvicorn.run("tests.faults.dying:dies_before_reply", factory=True, port=int(arguments[1]))
    elif moment == POISON:
        from worker.__main__ import main

        main()
    else:
        from core.store import leases
        from worker import janitor
        from worker.publisher import Publisher

        _die_after(*{MID_PUBLISH: (Publisher, "send"), MID_REAP: (leases, "reap")}[moment])
        janitor.main()


if __name__ == "__mp_main__":  # in a child of the worker, which runs this module again under that name
    _poisoned()
elif __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
