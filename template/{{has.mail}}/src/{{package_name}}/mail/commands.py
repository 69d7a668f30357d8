import asyncio

import click

from ..groups import Environment, read_settings
from ..logs import LogSettings, configure_logs
from .service import InvalidMail, MailNotSent
from .settings import MailSettings
from .state import DEVELOPMENT_FOLDER, open_mail


class MailEnvironment(Environment):
    """The settings of a command that only sends mail."""

    log: LogSettings
    mail: MailSettings


@click.command()
@click.argument("address")
def send_test_mail(address: str) -> None:
    """Send a test message, to see whether the settings for mail work."""
    settings = read_settings(MailEnvironment)
    configure_logs(settings.log, settings.environment)
    try:
        asyncio.run(send(settings.mail, address))
    except InvalidMail:
        raise click.ClickException(f"{address} is not a valid address.") from None
    except MailNotSent as error:
        raise click.ClickException(f"No mail was sent, because {error}.") from None
    if settings.mail.url is None:
        click.echo(f"The message is in {DEVELOPMENT_FOLDER}, since MAIL_URL is not set.")
    else:
        click.echo(f"The mail server has accepted a message to {address}.")


async def send(settings: MailSettings, address: str) -> None:
    async with open_mail(settings) as mail:
        await mail.send(address, "test")
