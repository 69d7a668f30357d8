"""Code that the recipes with a database omit, for the tests."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, status
from pydantic import BaseModel, ConfigDict

from .albums.models import Album, Track
from .albums.service import AlbumService
from .dependencies import SessionDep
from .items.dependencies import get_item_service
from .notes.models import Note
from .notes.router import router as notes
from .pagination import Page, PageRead
from .tasks.export import TaskRead
from .tasks.export import router as export
from .tasks.models import Task, TaskState
from .tasks.reports import ReportService
from .tasks.schemas import TaskPageParameters
from .tasks.service import TaskService
from .webhooks.dependencies import EventId
from .webhooks.service import EventService

router = APIRouter(dependencies=[Depends(get_item_service)])
webhooks = APIRouter()


class TaskCreate(BaseModel):
    title: str
    state: TaskState = TaskState.OPEN


class AlbumBody(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    class Track(BaseModel):
        model_config = ConfigDict(from_attributes=True)

        title: str

    title: str
    tracks: list[Track]


class NoteCreate(BaseModel):
    text: str


@router.post("/tasks", status_code=status.HTTP_201_CREATED, response_model=TaskRead)
async def create_task(session: SessionDep, new: TaskCreate) -> Task:
    task = Task(**new.model_dump())
    session.add(task)
    await session.flush()
    return task


@router.get("/tasks", response_model=PageRead[TaskRead])
async def list_tasks(
    session: SessionDep, page: Annotated[TaskPageParameters, Query()]
) -> Page[Task]:
    return await TaskService(session).list(page)


@router.delete("/tasks/{task_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_task(session: SessionDep, task_id: UUID) -> None:
    await session.delete(await TaskService(session).get(task_id))


@router.get("/report")
async def get_report(session: SessionDep) -> dict[TaskState, int]:
    return await ReportService(session).count_tasks()


@router.post("/albums", status_code=status.HTTP_201_CREATED)
async def create_album(session: SessionDep, new: AlbumBody) -> UUID:
    tracks = [Track(title=track.title) for track in new.tracks]
    album = Album(title=new.title, tracks=tracks)
    session.add(album)
    await session.flush()
    return album.id


@router.get("/albums/{album_id}", response_model=AlbumBody)
async def get_album(session: SessionDep, album_id: UUID) -> Album:
    return await AlbumService(session).get(album_id)


@router.delete("/albums/{album_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_album(session: SessionDep, album_id: UUID) -> None:
    await session.delete(await session.get_one(Album, album_id))


@router.post("/notes", status_code=status.HTTP_201_CREATED)
async def create_note(session: SessionDep, new: NoteCreate) -> UUID:
    note = Note(text=new.text)
    session.add(note)
    await session.flush()
    return note.id


@webhooks.post("/events", status_code=status.HTTP_204_NO_CONTENT)
async def receive_event(session: SessionDep, event_id: EventId, payload: dict[str, Any]) -> None:
    return await EventService(session).receive(event_id, payload)


routers = [export, notes, router, webhooks]
