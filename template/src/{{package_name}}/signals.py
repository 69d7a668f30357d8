"""How a command ends: soon after SIGINT or SIGTERM, with the exit code of a shell.

The first process of a container ignores a signal for which it has no handler, and Python has one
for SIGINT only. Importing this module installs them, so that a signal counts from then on.
"""

import os
import signal
import sys
from types import FrameType

PATIENCE = 5  # seconds for what has to be closed, such as a connection to a frozen server


def end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
    signal.alarm(PATIENCE)
    sys.exit(128 + number)


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, end)
