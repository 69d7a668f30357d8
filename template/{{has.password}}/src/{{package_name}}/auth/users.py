from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ..errors import Forbidden, NotFound
from ..pagination import Page, PageParameters
from . import sessions
from .models import User
from .schemas import AccountUpdate, Caller


class UserService:
    """The accounts, for an administrator."""

    def __init__(self, session: AsyncSession, admin: Caller) -> None:
        self._session = session
        self._admin = admin

    async def list(self, page: PageParameters) -> Page[User]:
        query = select(User).order_by(User.id).limit(page.limit + 1)
        if page.after:
            query = query.where(User.id > page.after)
        found = await self._session.scalars(query)
        return Page.of(found.all(), page.limit)

    async def update(self, user_id: UUID, changes: AccountUpdate) -> User:
        """Change an account. One that is deactivated has no session any more."""
        if user_id == self._admin.id:
            # So that there always is an administrator.
            raise Forbidden("Another administrator has to change your account.")
        # Both are locked, so that of two administrators who demote each other one remains.
        both = select(User).where(User.id.in_([user_id, self._admin.id])).order_by(User.id)
        found = {user.id: user for user in await self._session.scalars(both.with_for_update())}
        admin, user = found.get(self._admin.id), found.get(user_id)
        if admin is None or admin.role != "admin" or not admin.is_active:
            raise Forbidden("You are no administrator any more.")
        if user is None:
            raise NotFound(f"There is no user {user_id}.")
        for name, value in changes.model_dump(exclude_unset=True).items():
            setattr(user, name, value)
        await self._session.flush()
        if not user.is_active:
            await sessions.end_all(self._session, user.id)
        return user
