from typing import Annotated

from sqlalchemy import String
from sqlalchemy.orm import mapped_column

# The `id` of the principal to whom a row belongs.
OwnerId = Annotated[str, mapped_column(String(255))]
