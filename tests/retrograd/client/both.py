"""Both clients behind one face, so that every test is of each."""

import asyncio
import inspect
from contextlib import ExitStack, contextmanager

from retrograd.client import AsyncClient, Client

KINDS = ("waiting", "awaited")
_END = object()


@contextmanager
def connecting(kind):
    """Yields what makes clients; they are closed after the block."""
    with ExitStack() as stack:
        if kind == "waiting":
            yield lambda *arguments, **more: stack.enter_context(Client(*arguments, **more))
        else:
            runner = stack.enter_context(asyncio.Runner())

            def connect(*arguments, **more):
                client = AsyncClient(*arguments, **more)
                stack.callback(lambda: runner.run(client.close()))
                return Awaited(client, runner)

            yield connect


class Awaited:
    """Something of an asynchronous client: what it returns is awaited, what it tells is iterated."""

    def __init__(self, value, runner):
        self._value, self._runner = value, runner

    def __getattr__(self, name):
        return self._plain(getattr(self._value, name))

    def __getitem__(self, field):
        return self._value[field]

    def __repr__(self):
        return repr(self._value)

    def _plain(self, value):
        if inspect.iscoroutine(value):
            return self._plain(self._runner.run(value))
        if inspect.isasyncgen(value):
            return self._iterated(value)
        if callable(value):
            return lambda *arguments, **more: self._plain(value(*arguments, **more))
        if isinstance(value, list):
            return type(value)(self._plain(each) for each in value)
        return Awaited(value, self._runner) if ".async_" in type(value).__module__ else value

    def _iterated(self, iterator):
        async def following():
            return await anext(iterator, _END)

        async def closed():
            await iterator.aclose()

        try:
            while (each := self._runner.run(following())) is not _END:
                yield self._plain(each)
        finally:
            self._runner.run(closed())
