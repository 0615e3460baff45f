"""What carries the steps of exchanges out: waiting for each, or awaiting it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, aclosing, closing
from typing import Any, TypeVar

import httpx

from retrograd.client.server import Server
from retrograd.client.steps import Next, Open, Opened, Pause, Send, Step, Steps, Tell, Telling, resumed, told

T = TypeVar("T")

_THROWN = (httpx.TransportError, httpx.DecodingError)  # into the exchange, which knows what they mean


class Carrier:
    """Connections to a server, whose answers are waited for. Of any thread."""

    def __init__(self, server: Server, timeout: float) -> None:
        self._http = httpx.Client(**server.options(timeout))

    def run(self, steps: Steps[T]) -> T:
        """What the exchange returns."""
        (outcome,) = self.iterate(told(steps))
        return outcome

    def iterate(self, steps: Telling[T]) -> Iterator[T]:
        """What the exchange tells, as it does."""
        with closing(steps), ExitStack() as opened:
            step = next(steps, None)
            while step is not None:
                if isinstance(step, Tell):
                    yield step.item
                    step = resumed(steps.send, None)
                    continue
                try:
                    outcome = self._carry_out(step, opened)
                except _THROWN as error:
                    step = resumed(steps.throw, error)
                else:
                    step = resumed(steps.send, outcome)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _carry_out(self, step: Step, opened: ExitStack) -> Any:
        match step:
            case Send(call):
                return self._http.send(call.request(self._http))
            case Open(call, pieces):
                opened.close()
                answer = opened.enter_context(closing(self._http.send(call.request(self._http), stream=True)))
                if not answer.is_success:
                    answer.read()
                return Opened(answer, answer.iter_lines() if pieces == "lines" else answer.iter_bytes())
            case Next(begun):
                return next(begun.pieces, None)
            case Pause(seconds):
                return time.sleep(seconds)


class AsyncCarrier:
    """Connections to a server, whose answers are awaited. Of one event loop."""

    def __init__(self, server: Server, timeout: float) -> None:
        self._http = httpx.AsyncClient(**server.options(timeout))

    async def run(self, steps: Steps[T]) -> T:
        """What the exchange returns."""
        (outcome,) = [each async for each in self.iterate(told(steps))]
        return outcome

    async def iterate(self, steps: Telling[T]) -> AsyncIterator[T]:
        """What the exchange tells, as it does."""
        with closing(steps):
            async with AsyncExitStack() as opened:
                step = next(steps, None)
                while step is not None:
                    if isinstance(step, Tell):
                        yield step.item
                        step = resumed(steps.send, None)
                        continue
                    try:
                        outcome = await self._carry_out(step, opened)
                    except _THROWN as error:
                        step = resumed(steps.throw, error)
                    else:
                        step = resumed(steps.send, outcome)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _carry_out(self, step: Step, opened: AsyncExitStack) -> Any:
        match step:
            case Send(call):
                return await self._http.send(call.request(self._http))
            case Open(call, pieces):
                await opened.aclose()
                answer = await opened.enter_async_context(
                    aclosing(await self._http.send(call.request(self._http), stream=True))
                )
                if not answer.is_success:
                    await answer.aread()
                return Opened(answer, answer.aiter_lines() if pieces == "lines" else answer.aiter_bytes())
            case Next(begun):
                return await anext(begun.pieces, None)
            case Pause(seconds):
                return await asyncio.sleep(seconds)
