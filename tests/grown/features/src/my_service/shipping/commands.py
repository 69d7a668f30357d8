"""A second process: `my-service ship` runs until SIGTERM."""

import asyncio
import signal

import click
import structlog

from ..groups import Environment, read_settings
from ..logs import LogSettings, configure_logs
from ..payments.client import open_payments
from ..payments.settings import PaymentsSettings

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


class ShippingSettings(Environment):
    log: LogSettings
    payments: PaymentsSettings


@click.command()
def ship() -> None:
    """Ship orders until SIGTERM or SIGINT."""
    settings = read_settings(ShippingSettings)
    configure_logs(settings.log, settings.environment)
    asyncio.run(work(settings))


async def work(settings: ShippingSettings) -> None:
    draining = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, draining.set)
    async with open_payments(settings.payments) as payments:
        logger.info("shipping", payments=payments.settings.url)
        await draining.wait()
