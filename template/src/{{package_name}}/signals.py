"""Ends a command after SIGINT or SIGTERM, with exit code 130 or 143 as in a shell.

Importing this module installs the handlers. They are necessary since process 1 of a container
ignores signals without a handler, and Python has a handler for SIGINT only.
"""

import os
import signal
import sys
from types import FrameType

CLEANUP = 5  # seconds to close connections, which a frozen server may not acknowledge


def end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
    signal.alarm(CLEANUP)
    sys.exit(128 + number)


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, end)
