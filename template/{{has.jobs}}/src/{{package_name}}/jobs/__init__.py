"""Background jobs: `add` stores a job in a transaction, and `@job` declares what runs it."""

from .handlers import job as job
from .queue import add as add
