"""A rendered service whose mail server fails: real sockets, uvicorn, HTTP."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex
from threading import Thread
from typing import Any

import pytest
from breakable import Service, row
from harness import UV, add_code, add_lines, eventually, render, succeed

# An endpoint that sends mail, of a project without authentication.
NOTES = """
from ..mail.dependencies import MailDep
from ..routing import Router

router = Router(prefix="/notes", tags=["notes"])


@router.post("", status_code=202)
async def send_note(address: str, mail: MailDep) -> None:
    await mail.send(address, "test", service="notes")
"""
ADDRESS = "ada.lovelace@example.com"
GREETING = (b"220 ready", b"250 hello", b"250 OK")

Start = Callable[[int], Service]


@pytest.fixture(scope="module")
def project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "rendered"
    project = render(template, folder, database="none", auth="none", mail="smtp")
    add_code(project, "src/my_service/notes/router.py", NOTES)
    app = project / "src" / "my_service" / "app.py"
    add_lines(app, "imports", "from .notes.router import router as notes")
    add_lines(app, "routers", "app.include_router(notes)")
    succeed(project, UV, "sync", "--quiet")
    return project


@pytest.fixture
def start(project: Path) -> Iterator[Start]:
    """Start a service with a mail server on a port. Its log must have no secret."""
    with ExitStack() as stack:

        def start(port: int) -> Service:
            variables = {
                "AUTH_SECRET": token_hex(32),  # which `Service` reads
                "MAIL_SENDER": "no-reply@example.com",
                "MAIL_URL": f"smtp://127.0.0.1:{port}",
            }
            service = Service(project, variables)
            service.secrets.add(ADDRESS)
            stack.callback(service.check_log)
            stack.callback(service.stop)
            assert eventually(service.answers), service.log
            return service

        yield start


@contextmanager
def serving(*lines: bytes) -> Iterator[int]:
    """Say a line to each client, and the next one after each command; yield the port."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as commands:
                for line in lines:
                    connection.sendall(line + b"\r\n")
                    commands.readline()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def send_note(service: Service) -> dict[str, Any]:
    """Send mail, and return the line of the log that says why it was not sent."""
    before = len(service.events(event="mail not sent"))
    response = service.client.post("/notes", params={"address": ADDRESS})
    assert response.status_code == 202
    assert eventually(lambda: len(service.events(event="mail not sent")) > before), service.log
    line = service.events(event="mail not sent")[-1]
    assert line["level"] == "error"
    assert line["template"] == "test"
    assert line["request_id"] == response.headers["X-Request-ID"]
    return line


@row("The mail server is unreachable")
def test_a_mail_server_that_is_unreachable(start: Start) -> None:
    with serving() as port:
        pass
    service = start(port)
    assert service.client.get("/health/ready").status_code == 200
    assert "Error connecting to 127.0.0.1" in send_note(service)["cause"]


@row("The mail server hangs")
def test_a_mail_server_that_hangs(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # it accepts no connection
        service = start(listener.getsockname()[1])
        cause = send_note(service)["cause"]
    assert "did not respond within 10 seconds" in cause
    assert service.answers("/health/live")


@row("The mail server refuses a message")
def test_a_mail_server_that_refuses_a_message(start: Start) -> None:
    refusal = f"550 5.1.1 <{ADDRESS}> does not exist".encode()
    with serving(*GREETING, refusal) as port:
        cause = send_note(start(port))["cause"]
    assert cause == ("the mail server refuses the recipient: 550 5.1.1 <[hidden]> does not exist")
