from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from .principal import Principal as Principal

Sorted = Annotated[list[str], BeforeValidator(sorted)]


class PrincipalRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    subject: str
    scopes: Sorted
    roles: Sorted
