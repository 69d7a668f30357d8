from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ..errors import Forbidden, NotFound
from ..pagination import Page, PageParameters
from . import sessions
from .audit import Audit, Event
from .models import User, UserSession
from .schemas import AccountUpdate, Caller
from .throttle import Throttle, count_account, count_devices


class UserService:
    """The accounts, for an administrator."""

    def __init__(self, session: AsyncSession, admin: Caller, audit: Audit) -> None:
        self._session = session
        self._admin = admin
        self._audit = audit

    async def list(self, page: PageParameters) -> Page[User]:
        query = select(User).order_by(User.id).limit(page.limit + 1)
        if page.after:
            query = query.where(User.id > page.after)
        found = await self._session.scalars(query)
        return Page.of(found.all(), page.limit)

    async def get(self, user_id: UUID) -> User:
        user = await self._session.get(User, user_id)
        if user is None:
            raise NotFound(f"There is no user {user_id}.")
        return user

    async def update(self, user_id: UUID, changes: AccountUpdate) -> User:
        """Change an account. To deactivate it ends its sessions; to activate it, also when it is
        active, allows log-ins again after too many failures.
        """
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
        role, was_active = user.role, user.is_active
        for name, value in changes.model_dump().items():
            setattr(user, name, value)
        await self._session.flush()
        if user.role != role:
            self._record(user, "role_change", old=role, new=user.role)
        if user.is_active != was_active:
            self._record(user, "activation" if user.is_active else "deactivation")
        if not user.is_active:
            mine = UserSession.user_id == user.id
            await sessions.end(self._session, self._audit, "account deactivated", mine)
        elif "is_active" in changes.model_fields_set:
            had_failures = await unlock(self._session, user)
            if had_failures and was_active:
                self._record(user, "unlock")
        return user

    def _record(self, user: User, event: Event, **details: object) -> None:
        self._audit.record_on_commit(self._session, event, subject=user.id, **details)


async def unlock(session: AsyncSession, user: User) -> bool:
    """Forget the failures to log in to an account. Return whether there were any."""
    return bool(await Throttle(count_account(user.email), count_devices(user.id)).reset(session))
