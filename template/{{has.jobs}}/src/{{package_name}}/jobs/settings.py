from typing import Annotated

from pydantic import Field

from ..groups import Group


class JobsSettings(Group):
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 10  # jobs that a worker runs at once
