"""Which function runs a job: `@job` declares it, for the type of its payload."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeVar, get_type_hints, overload
from zoneinfo import ZoneInfo

from cronsim import CronSim
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

LONGEST_PAUSE = 3600  # seconds

PayloadType = TypeVar("PayloadType", bound=BaseModel)
StateType = TypeVar("StateType")
Function = Callable[[PayloadType, AsyncSession, StateType], Awaitable[None]]


def find_next(schedule: str, after: datetime) -> datetime:
    """Return the next time of a schedule: a cron expression with five fields, and a time zone."""
    cron, _, zone = schedule.rpartition(" ")
    return next(CronSim(cron, after.astimezone(ZoneInfo(zone))))


@dataclass(frozen=True, slots=True)
class Handler:
    payload: type[BaseModel]
    function: Callable[[Any, AsyncSession, Any], Awaitable[None]]
    attempts: int
    time_limit: float  # seconds
    schedule: str  # "" if it is not periodic


class Outcome(NamedTuple):
    """How an attempt to run a job has ended."""

    name: Literal["done", "retried", "failed", "released", "lost"]
    error: Exception | None = None


# By the name of the payload's type, which a job has in the database, too.
HANDLERS: dict[str, Handler] = {}


@overload
def job(function: Function[PayloadType, StateType], /) -> Function[PayloadType, StateType]: ...


@overload
def job(
    *, attempts: int = 10, time_limit: float = 300, cron: str = "", zone: str = "UTC"
) -> Callable[[Function[PayloadType, StateType]], Function[PayloadType, StateType]]: ...


def job(
    function: Any = None,
    /,
    *,
    attempts: int = 10,
    time_limit: float = 300,
    cron: str = "",
    zone: str = "UTC",
) -> Any:
    """Declare a function that runs jobs with the type of its first parameter, at least once.

    What it writes with `session` is committed together with the end of the job, so exactly once. A
    function that raises, or takes longer than `time_limit` seconds, is called again after 2, 4, 8
    ... seconds, an hour at most, until `attempts` of them have failed. With `cron`, it is called
    with `Payload()` at each time that the expression matches in `zone`, by one worker.
    """

    def declare(function: Any) -> Any:
        payload = next(iter(get_type_hints(function).values()))
        schedule = f"{cron} {zone}" if cron else ""
        if schedule:
            find_next(schedule, datetime.now(UTC))  # raises if it is invalid
            payload()
        if payload.__name__ in HANDLERS:
            raise TypeError(f"Two handlers have a payload with the name {payload.__name__}.")
        HANDLERS[payload.__name__] = Handler(payload, function, attempts, time_limit, schedule)
        return function

    return declare if function is None else declare(function)
