import signal
import subprocess

from .conftest import COMMAND


def test_it_ships_until_a_signal(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [COMMAND, "ship"], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        assert '"shipping"' in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
