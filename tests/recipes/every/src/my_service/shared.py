"""Code that the recipes omit, for the tests: endpoints that use the caller of the example."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from .archives.router import router as archives
from .comments.router import router as comments
from .greetings.dependencies import PreferredLanguage
from .items.dependencies import get_item_service
from .pictures.router import router as pictures
from .previews.service import Previews
from .rates.dependencies import RatesDep
from .tickets.dependencies import NewCode, make_code
from .webhooks.dependencies import EventId

router = APIRouter(dependencies=[Depends(get_item_service)])
webhooks = APIRouter()


async def get_previews() -> Previews:
    raise NotImplementedError


PreviewsDep = Annotated[Previews, Depends(get_previews)]
Language = Annotated[str, Depends(PreferredLanguage("en", "de"))]
Code = Annotated[str, Depends(make_code)]


async def get_shared_codes(one: Code, two: Code) -> list[str]:
    return [one, two]


async def get_new_codes(one: NewCode, two: NewCode) -> list[str]:
    return [one, two]


@router.get("/rates")
async def list_rates(
    rates: RatesDep, currency: Annotated[list[str], Query(max_length=20)]
) -> dict[str, float]:
    return await rates.get_all(currency)


@router.get("/preview")
async def get_preview(previews: PreviewsDep, text: str) -> str:
    return await previews.make(text)


@router.get("/language")
async def get_language(language: Language) -> str:
    return language


@router.get("/codes")
async def get_codes(
    shared: Annotated[list[str], Depends(get_shared_codes)],
    new: Annotated[list[str], Depends(get_new_codes)],
) -> dict[str, list[str]]:
    return {"shared": shared, "new": new}


@webhooks.post("/signed")
async def receive_signed(event_id: EventId, payload: dict[str, str]) -> str:
    return event_id


routers = [archives, comments, pictures, router, webhooks]
