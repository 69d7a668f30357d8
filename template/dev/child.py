"""`python -m dev.child COMMAND`: run a command that stops when its parent process dies."""

import ctypes
import os
import signal
import sys


def end_with_parent() -> None:
    """Stop this process when its parent is killed. This works on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def main(command: list[str]) -> None:
    end_with_parent()
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        sys.exit(f"There is no command {command[0]}. Try it with `uv run`.")


if __name__ == "__main__":
    main(sys.argv[1:])
