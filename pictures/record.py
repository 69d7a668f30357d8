"""Record a first session with the template, as a picture: `nox -s picture` writes session.svg."""

import os
import re
import signal
import subprocess
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
WIDTH = 100
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | {
    "COLUMNS": str(WIDTH),
    "FORCE_COLOR": "1",
    "PY_COLORS": "1",
}


class Session:
    """Types commands into a shell, and shows what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Not to the terminal: it is only recorded.
        self.console = Console(record=True, width=WIDTH, file=StringIO())

    def show(self, command: str, output: str = "") -> None:
        self.console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        if output.strip():
            self.console.print(Text.from_ansi(output.rstrip()))

    def run(self, command: str, *, last: int = 0) -> None:
        """Show the output of a command, or its last lines."""
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        self.show(command, "\n".join(done.stdout.rstrip().splitlines()[-last:]))


def read_until(process: subprocess.Popen[str], words: str) -> str:
    output = ""
    while words not in output:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise SystemExit(f"{output}It ended before it said: {words}")
        output += line
    return output


def main() -> None:
    with TemporaryDirectory() as name:
        session = Session(Path(name))
        (session.folder / "keel").symlink_to(ROOT)
        session.run("uvx copier copy --defaults --data project_name=Orders keel orders", last=3)
        session.folder /= "orders"
        session.show("cd orders")
        session.run("uv run poe test", last=3)
        command = "uv run poe dev"
        with subprocess.Popen(
            command.split(),
            cwd=session.folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as service:
            output = read_until(service, "Interactive docs")
            session.show(f"{command} &", output)
            address = re.findall(r"http://[\w.:]+", output)[0]
            read_until(service, "Application startup complete")
            account = '{"email": "ada@example.com", "password": "correct horse battery staple"}'
            session.run(f"curl --silent --json '{account}' {address}/v1/auth/users")
            session.run(f"curl --silent --include {address}/v1/items")
            service.send_signal(signal.SIGINT)
            service.communicate()
        session.console.save_svg(str(ROOT / "pictures" / "session.svg"), title="Keel")


if __name__ == "__main__":
    main()
