"""For machine clients, which send a key of their own."""

from typing import Annotated

from fastapi import Depends
from fastapi.security import APIKeyHeader
from pydantic import BaseModel

from ..errors import Forbidden
from ..routing import Router

machine_key = APIKeyHeader(name="X-Machine-Key", scheme_name="MachineKey")


async def check_machine_key(key: Annotated[str, Depends(machine_key)]) -> None:
    if not key.startswith("machine-"):
        raise Forbidden("The machine key is wrong.")


router = Router(prefix="/machines", tags=["machines"], dependencies=[Depends(check_machine_key)])


class Beat(BaseModel):
    interval: int = 60  # seconds


@router.get("/beat")
async def beat() -> Beat:
    return Beat()
