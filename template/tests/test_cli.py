import json
import signal
import socket
import subprocess
import time

import httpx2

from .conftest import COMMAND

SERVE = [COMMAND, "serve"]


def test_serve_answers_logs_json_and_stops(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*SERVE, "--port", str(port)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            response = wait_for(f"http://127.0.0.1:{port}/health/live")
        finally:
            process.send_signal(signal.SIGINT)
            _, output = process.communicate(timeout=30)
    assert response.status_code == 200
    assert "server" not in response.headers
    logs = [json.loads(line) for line in output.splitlines()]
    request = next(log for log in logs if log["event"] == "request")
    assert request["route"] == "/health/live"
    assert request["request_id"] == response.headers["X-Request-ID"]
    assert request["level"] == "info"
    assert logs[-1]["event"].startswith("Finished server process")


def wait_for(url: str) -> httpx2.Response:
    for _ in range(300):
        try:
            return httpx2.get(url)
        except httpx2.ConnectError:
            time.sleep(0.1)
    raise TimeoutError(url)


def fail(command: list[str], environment: dict[str, str]) -> str:
    """Run a command that must fail with a message for people, and return the message."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_port_that_is_taken_is_a_sentence(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = fail([*SERVE, "--port", str(port)], environment)
    assert f"Cannot listen on 127.0.0.1:{port}" in message
    assert "--port" in message


def test_wrong_settings_are_one_list(environment: dict[str, str]) -> None:
    wrong = {"HTTP_MAX_BODY_SIZE": "much", "LOG_LEVEL": "chatty"}
    message = fail(SERVE, environment | wrong)
    assert "HTTP_MAX_BODY_SIZE: Input should be a valid integer" in message
    assert "LOG_LEVEL: Input should be 'DEBUG'" in message
    assert ".env.example explains them:" in message
