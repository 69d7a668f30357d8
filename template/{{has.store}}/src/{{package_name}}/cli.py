"""The commands that operate the service."""

import click
from dotenv import load_dotenv

from . import server
from .logs import configure_logs
from .settings import get_settings


@click.group()
def main() -> None:
    """The environment configures every command; .env.example explains its variables."""


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(1, 65535), envvar="PORT"
)
@click.option("--reload", is_flag=True, help="Start anew when a source file changes; read .env.")
@click.option(
    "--drain",
    default=5,
    show_default=True,
    type=click.IntRange(0),
    help="Seconds to listen on after SIGTERM, while /health/ready says 503.",
)
@click.option(
    "--grace",
    default=20,
    show_default=True,
    type=click.IntRange(0),
    help="Seconds from the signal until what still runs is cut short.",
)
def serve(host: str, port: int, reload: bool, drain: int, grace: int) -> None:
    """Answer requests, in one process."""
    if reload:
        load_dotenv(".env")
    settings = get_settings()
    configure_logs(settings)
    server.serve(settings, host, port, reload=reload, drain=drain, grace=grace)
