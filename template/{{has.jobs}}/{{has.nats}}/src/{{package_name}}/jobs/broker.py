"""The connection to NATS, which may be unreachable, and the stream of jobs."""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import structlog
from nats.aio.client import PERMISSIONS_ERR, Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    Header,
    RawStreamMsg,
    RetentionPolicy,
    StatusCode,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from .settings import JobsSettings

TIME_LIMIT = 3.0  # seconds for a request
PAUSE = 1.0  # seconds between two attempts to reach a server, and between two pulls without a job
ACK_WAIT = 10.0  # seconds after which a job runs elsewhere if its worker does not report
REPEATED = 120.0  # seconds in which a message that is published again is dropped

NO_MESSAGE = 10037  # an error code of NATS

WORKER = "worker"  # the consumer that runs jobs
RELAY = "relay"  # the consumer that moves jobs back to the table

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


class StreamError(Exception):
    """The stream is missing, or is not one for jobs. The text says what is wrong."""


# Errors of a server that is reachable.
REFUSALS = (APIError, StreamError, NoStreamResponseError, MaxPayloadError)


def make_subjects(stream: str) -> list[str]:
    return [f"{stream}.jobs.>", f"{stream}.returned"]


def make_stream(
    name: str, *, replicas: int | None = None, max_bytes: int | None = None
) -> StreamConfig:
    """Each job is in the stream until it has ended. A full stream refuses jobs, and drops none."""
    return StreamConfig(
        name=name,
        subjects=make_subjects(name),
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        duplicate_window=REPEATED,
        num_replicas=replicas,
        max_bytes=max_bytes,
        max_msgs=-1,
        max_msg_size=-1,
        max_age=0,
        max_consumers=-1,
    )


def make_consumers(name: str) -> list[ConsumerConfig]:
    subjects = {WORKER: f"{name}.jobs.>", RELAY: f"{name}.returned"}
    return [
        ConsumerConfig(
            durable_name=consumer,
            filter_subject=subject,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT,
            max_deliver=-1,
            # Jobs that wait for their next attempt count, and must not stop the others.
            max_ack_pending=-1,
        )
        for consumer, subject in subjects.items()
    ]


def compare(kind: str, expected: Any, actual: Any, fields: Iterable[str]) -> None:
    for field in fields:
        value, target = getattr(actual, field), getattr(expected, field)
        if value != target:
            target = getattr(target, "value", target)
            raise StreamError(f"{kind} has {field} {value}, not {target}")


class Broker:
    """A connection that is made again whenever it is lost. Only changes are logged."""

    def __init__(self, client: Client, stream: str, connecting: asyncio.Task[None]) -> None:
        self.client = client
        self._connecting = connecting
        self.stream = stream
        self.jetstream = JetStreamContext(client, timeout=TIME_LIMIT)
        self.end = asyncio.Event()  # of the connection, for good
        self.error = ""
        self._is_unreachable = False
        self._refusals: set[str] = set()  # by whom

    @property
    def is_connected(self) -> bool:
        return self.client.is_connected

    async def watch(self) -> None:
        """Raise an error if the client gives up. Then, only a new process can help."""
        await asyncio.shield(self._connecting)
        await self.end.wait()
        raise ConnectionError(f"The connection to NATS was closed: {self.error}")

    async def wait_until_connected(self) -> None:
        """Raise `TimeoutError` if there is no connection within `TIME_LIMIT`."""
        async with asyncio.timeout(TIME_LIMIT):
            await asyncio.shield(self._connecting)

    @contextmanager
    def noticing(self, name: str) -> Generator[None]:
        """Log errors of a stream or a consumer, and go on after them."""
        try:
            yield
        except (NatsError, StreamError, TimeoutError, OSError) as error:
            self.report(error, name)

    def report(self, error: Exception, name: str = "") -> None:
        problem = self._problem
        # The server says why it refuses a client, and then it closes the connection.
        if not (self._is_unreachable and isinstance(error, OSError)):
            self.error = f"{type(error).__name__}: {error}"
        if PERMISSIONS_ERR in str(error).lower():
            self._refusals.add(PERMISSIONS_ERR)  # until the client connects again
        elif isinstance(error, REFUSALS) or name not in ("", self.stream, WORKER, RELAY):
            # The stream of another service may not respond while NATS is reachable.
            self._refusals.add(name)
        elif not (PERMISSIONS_ERR in self._refusals and isinstance(error, TimeoutError)):
            self._is_unreachable = True
        self._log_change(problem)

    def recover(self, name: str = "") -> None:
        """Note that the server has responded, and done what a stream or a consumer is for."""
        problem = self._problem
        self._is_unreachable = False
        self._refusals.discard(name)
        self._log_change(problem)
        if not self._problem:
            self.error = ""

    @property
    def _problem(self) -> str:
        if self._is_unreachable:
            return "NATS is unreachable"
        return "NATS refuses requests" if self._refusals else ""

    def _log_change(self, earlier: str) -> None:
        if self._problem and self._problem != earlier:
            logger.warning(self._problem, cause=self.error)
        elif earlier and not self._problem:
            logger.info("NATS works again")

    async def check(self) -> None:
        """Raise `StreamError` if the stream or a consumer is missing, or is not one for jobs."""
        try:
            self._check_stream((await self.jetstream.stream_info(self.stream)).config)
            for expected in make_consumers(self.stream):
                name = str(expected.durable_name)
                actual = (await self.jetstream.consumer_info(self.stream, name)).config
                fields = ("filter_subject", "ack_policy", "ack_wait", "max_deliver")
                compare(f"its consumer {name}", expected, actual, (*fields, "max_ack_pending"))
        except NotFoundError as error:
            raise StreamError(f"{error.description}") from None

    def _check_stream(self, stream: StreamConfig) -> None:
        fields = ("retention", "discard", "storage", "max_age")
        limits = ("max_msg_size", "max_msgs_per_subject")
        compare("it", make_stream(self.stream), stream, (*fields, *limits))
        subjects = stream.subjects or []
        if not {*make_subjects(self.stream)} <= {*subjects}:
            raise StreamError(f"it has the subjects {', '.join(subjects)}")
        if stream.duplicate_window < REPEATED:
            raise StreamError(f"it has duplicate_window {stream.duplicate_window}")

    async def create(self, replicas: int | None, max_bytes: int | None) -> bool:
        """Create the stream and its consumers. Return whether something was missing.

        Raise `StreamError` if there is a stream that is not one for jobs, or has other limits than
        those that are given.
        """
        expected = make_stream(self.stream, replicas=replicas, max_bytes=max_bytes)
        is_missing = False
        try:
            stream = (await self.jetstream.stream_info(self.stream)).config
        except NotFoundError:
            is_missing = True
            await self.jetstream.add_stream(expected)
        else:
            self._check_stream(stream)
            limits = {"num_replicas": replicas, "max_bytes": max_bytes}
            fields = [name for name, value in limits.items() if value is not None]
            compare("it", expected, stream, fields)
        for consumer in make_consumers(self.stream):
            try:
                await self.jetstream.consumer_info(self.stream, str(consumer.durable_name))
            except NotFoundError:
                is_missing = True
                await self.jetstream.add_consumer(self.stream, consumer)
        await self.check()
        return is_missing

    async def publish(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        """Publish, and wait until it is stored. Raise `MaxPayloadError` if it is too large."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        # For headers that are too large together with the body, the server closes the connection.
        if len(f"NATS/1.0\r\n{lines}\r\n".encode()) + len(body) > self.client.max_payload:
            raise MaxPayloadError
        await self.jetstream.publish(subject, body, headers=headers)
        self.recover(subject.partition(".")[0])

    async def is_deleted(self, place: int) -> bool:
        """Whether a message that a worker has got was deleted from the stream."""
        try:
            await self.jetstream.get_msg(self.stream, seq=place)
        except NotFoundError as error:
            if error.err_code != NO_MESSAGE:
                raise
            return True
        return False

    async def list_messages(self) -> AsyncGenerator[RawStreamMsg]:
        """List what is in the stream, in the order of its arrival."""
        place = 1
        while True:
            try:
                message = await self.jetstream.get_msg(
                    self.stream, seq=place, subject=f"{self.stream}.>", next=True
                )
            except NotFoundError as error:
                if error.err_code != NO_MESSAGE:
                    raise
                return
            yield message
            place = (message.seq or 0) + 1


class Consumer:
    """Pulls messages of a consumer.

    The client's `fetch` takes jobs with a header `Status` for responses of the server. Here, those
    are recognized by their subject.
    """

    def __init__(self, broker: Broker, name: str) -> None:
        self.broker = broker
        self.name = name
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._number = 0  # of requests
        self._is_checked = False
        self._is_silent = False  # whether the server has not responded to the last request

    async def pull(self, limit: int) -> Sequence[Msg]:
        """Wait up to `PAUSE` for up to `limit` messages. Sometimes there are more."""
        if not self.broker.client.is_connected:
            await asyncio.sleep(PAUSE)
            return []
        if self._is_silent:
            # A server that was frozen would deliver messages for each pull that it has missed. Not
            # `flush`: after a timeout, its late response ends the loop that reads.
            await self.broker.jetstream.consumer_info(self.broker.stream, self.name)
            self.broker.recover()
        if not self._is_checked:
            await self.broker.check()
            self._is_checked = True
        messages = await self.request(limit, no_wait=True)
        if not messages and not self._is_silent:
            messages = await self.request(1, expires=int(PAUSE * 10**9))  # nanoseconds
        if not self._is_silent:
            self.broker.recover(self.name)
        return messages

    async def request(self, limit: int, **options: Any) -> list[Msg]:
        """Request messages, and return those that arrive before the server says that it is done."""
        client = self.broker.client
        if self._subscription is None:
            self._inbox = client.new_inbox()
            self._subscription = await client.subscribe(f"{self._inbox}.*")
        messages: list[Msg] = []
        while self._subscription.pending_msgs:  # that have arrived too late for an earlier request
            message = await self._subscription.next_msg(PAUSE)
            if not message.subject.startswith(self._inbox):
                messages.append(message)
        if len(messages) >= limit:
            return messages
        self._number += 1
        reply = f"{self._inbox}.{self._number}"
        body = json.dumps({"batch": limit - len(messages), **options}).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.broker.stream}.{self.name}"
        await client.publish(subject, body, reply)
        self._is_silent = False
        try:
            while len(messages) < limit:
                message = await self._subscription.next_msg(PAUSE + 0.5)
                if message.subject == reply:
                    self._check_end(message, has_messages=bool(messages))
                    break
                if not message.subject.startswith(self._inbox):  # the end of an earlier request
                    messages.append(message)
        except NatsTimeoutError:
            self._is_silent = True
        return messages

    def _check_end(self, message: Msg, *, has_messages: bool) -> None:
        """Raise `APIError` unless there are no more messages."""
        status = (message.headers or {}).get(Header.STATUS.value)
        if status not in (StatusCode.NO_MESSAGES, StatusCode.REQUEST_TIMEOUT):
            self._is_checked = False  # the stream or the consumer may be missing
            if not has_messages:
                raise APIError.from_msg(message)


class PersistentClient(Client):
    """It connects again after an error of the server, such as the end of a login.

    That of the library would never do this.
    """

    async def _process_err(self, err_msg: str) -> None:
        if PERMISSIONS_ERR in err_msg.lower():
            await super()._process_err(err_msg)
            return
        error = NatsError(f"nats: {err_msg}")
        await self._error_cb(error)
        await self._process_op_err(error)


class VerifiedClient(PersistentClient):
    """It refuses a server without TLS, to which the client of the library sends the password."""

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and not info.get("tls_required"):
            raise NatsError("the server does not require TLS")
        await super()._process_info(info, initial_connection)


@asynccontextmanager
async def open_broker(settings: JobsSettings) -> AsyncGenerator[Broker]:
    """Connect in the background: NATS may be unreachable, also at the start."""
    client = VerifiedClient() if settings.has_tls else PersistentClient()

    async def report(error: Exception) -> None:
        broker.report(error)

    async def recover() -> None:
        broker.recover(PERMISSIONS_ERR)

    async def close() -> None:
        broker.end.set()

    connecting = asyncio.create_task(
        client.connect(
            [*settings.servers],
            name=settings.stream,
            user=settings.login.user,
            password=settings.login.password,
            token=settings.login.token,
            user_credentials=settings.nats_credentials,
            tls=ssl.create_default_context() if settings.has_tls else None,
            connect_timeout=int(TIME_LIMIT),
            reconnect_time_wait=int(PAUSE),
            max_reconnect_attempts=-1,
            ping_interval=5,
            error_cb=report,
            reconnected_cb=recover,
            closed_cb=close,
        )
    )
    broker = Broker(client, settings.stream, connecting)
    try:
        yield broker
    finally:
        connecting.cancel()
        await asyncio.wait([connecting])
        # Not `drain`, which waits for pulls. A frozen server does not acknowledge the end of TLS.
        with suppress(NatsError, OSError):
            async with asyncio.timeout(PAUSE):
                await client.close()
