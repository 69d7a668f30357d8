"""The procrastinate application that is compared with the queue of a rendered service."""

import os

from procrastinate import App, PsycopgConnector

from my_service.noop.jobs import Noop, note_start

app = App(connector=PsycopgConnector(conninfo=os.environ["DATABASE_URL"], max_size=20))


@app.task(name="noop")
async def noop(number: int) -> None:
    await note_start(Noop(number=number), None, None)
