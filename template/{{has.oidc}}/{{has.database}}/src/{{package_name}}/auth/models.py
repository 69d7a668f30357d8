from typing import Annotated

from sqlalchemy import String
from sqlalchemy.orm import mapped_column

# The `id` of the principal that owns a row.
OwnerId = Annotated[str, mapped_column(String(255))]
