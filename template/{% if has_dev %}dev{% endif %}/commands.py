"""Runs the commands of `poe dev`: what it started before them stays for as long."""

import ctypes
import signal
import subprocess
import sys


def run(command: list[str], settings: dict[str, str]) -> int:
    """Run a command to its end."""
    with subprocess.Popen(command, env=settings, preexec_fn=end_with_parent) as process:
        # A terminal sends Ctrl-C to both of us, and the command deals with it.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        code = process.wait()
        return code if code >= 0 else 128 - code  # as a shell counts: 130 for Ctrl-C


def end_with_parent() -> None:
    """Let Linux end this process when its parent is killed; other systems have no such thing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
