"""A connection pool that serves waiting requests in order of arrival.

SQLAlchemy's pool gives a free connection to the next request that asks, so under load a waiting
request is overtaken again and again (sqlalchemy#7679).
"""

import asyncio
from collections import deque
from typing import Literal, TypeVar, cast

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import await_only
from sqlalchemy.util.queue import AsyncAdaptedQueue, Empty

Item = TypeVar("Item")


class FairQueue(AsyncAdaptedQueue[Item]):
    """Gives an item to the first waiter, so there is no free item while somebody waits."""

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        super().__init__(maxsize, use_lifo)
        self._waiters: deque[asyncio.Future[Item]] = deque()

    def put_nowait(self, item: Item) -> None:
        self._remove_cancelled_waiters()
        if self._waiters:
            self._waiters.popleft().set_result(item)
        else:
            super().put_nowait(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        if not block or not self.empty():
            return self.get_nowait()
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Item] = loop.create_future()
        self._waiters.append(waiter)
        timer = None if timeout is None else loop.call_later(timeout, give_up, waiter)
        try:
            return await_only(waiter)
        except asyncio.CancelledError:
            # It may have been cancelled just after it got an item.
            if not waiter.cancelled() and not waiter.exception():
                self.put_nowait(waiter.result())
            raise
        finally:
            if timer:
                timer.cancel()
            self._remove_cancelled_waiters()

    def wake(self) -> None:
        """Let the first waiter check again whether it may open a connection."""
        self._remove_cancelled_waiters()
        if self._waiters:
            self._waiters.popleft().set_exception(Empty())

    def _remove_cancelled_waiters(self) -> None:
        while self._waiters and self._waiters[0].done():
            self._waiters.popleft()


def give_up(waiter: asyncio.Future[Item]) -> None:
    if not waiter.done():
        waiter.set_exception(Empty())


class FairPool(AsyncAdaptedQueuePool):
    __module__ = AsyncAdaptedQueuePool.__module__  # the name of its logger
    _queue_class = FairQueue

    def _dec_overflow(self) -> Literal[True]:
        # A connection could not be made.
        is_done = super()._dec_overflow()
        cast("FairQueue[ConnectionPoolEntry]", self._pool).wake()
        return is_done
