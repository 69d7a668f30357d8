from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ..errors import Forbidden, NotFound
from ..pagination import Page, PageParameters
from . import sessions
from .audit import Audit, Event
from .models import User, UserSession
from .schemas import AccountUpdate, Caller
from .throttle import Throttle, account_counter, device_counter


class UserService:
    """All accounts, for an administrator."""

    def __init__(self, session: AsyncSession, admin: Caller, audit: Audit) -> None:
        self._session = session
        self._admin = admin
        self._audit = audit

    async def list(self, page: PageParameters) -> Page[User]:
        query = select(User).order_by(User.id).limit(page.limit + 1)
        if page.after:
            query = query.where(User.id > page.after)
        rows = await self._session.scalars(query)
        return Page.of(rows.all(), page.limit)

    async def get(self, user_id: UUID) -> User:
        user = await self._session.get(User, user_id)
        if user is None:
            raise NotFound(f"There is no user {user_id}.")
        return user

    async def update(self, user_id: UUID, changes: AccountUpdate) -> User:
        """Change an account.

        Deactivation ends its sessions. Activation resets its failed logins, even if it is active.
        """
        if user_id == self._admin.id:
            # So there is always an administrator.
            raise Forbidden("Another administrator has to change your account.")
        # Lock both accounts: if two administrators demote each other, one remains.
        statement = select(User).where(User.id.in_([user_id, self._admin.id])).order_by(User.id)
        rows = await self._session.scalars(statement.with_for_update())
        users = {user.id: user for user in rows}
        admin, user = users.get(self._admin.id), users.get(user_id)
        if admin is None or admin.role != "admin" or not admin.is_active:
            raise Forbidden("You are no longer an administrator.")
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
            condition = UserSession.user_id == user.id
            await sessions.end(self._session, self._audit, "account deactivated", condition)
        elif "is_active" in changes.model_fields_set:
            had_failures = await unlock(self._session, user)
            if had_failures and was_active:
                self._record(user, "unlock")
        return user

    def _record(self, user: User, event: Event, **details: object) -> None:
        self._audit.record_on_commit(self._session, event, subject=user.id, **details)


async def unlock(session: AsyncSession, user: User) -> bool:
    """Reset the failed logins of an account. Return whether there were any."""
    return bool(await Throttle(account_counter(user.email), device_counter(user.id)).reset(session))
