from uuid import UUID

from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from ..auth.principal import PrincipalId
from ..errors import NotFound, Unprocessable
from ..pagination import BEFORE_ALL, Page, PageParameters
from .members import Membership
from .models import Member, Organization
from .schemas import OrganizationCreate, OrganizationRead, OrganizationUpdate

# Built once: building a statement takes longer than running it.
SELECT_ORGANIZATIONS = (
    select(
        Organization.id,
        Organization.name,
        Member.role,
        Organization.created_at,
        Organization.updated_at,
    )
    .join(Member, Member.organization_id == Organization.id)
    .where(Member.principal_id == bindparam("principal_id"))
)
LIST_ORGANIZATIONS = (
    SELECT_ORGANIZATIONS.where(Organization.id > bindparam("after"))
    .order_by(Organization.id)
    .limit(bindparam("limit"))
)


class OtherName(Unprocessable):
    type = "urn:problem-type:other-name"
    detail = "The organization has another name."


class OrganizationService:
    """The organizations of a principal. It does not see those of others."""

    def __init__(self, session: AsyncSession, principal_id: PrincipalId) -> None:
        self._session = session
        self._principal_id = principal_id

    async def list(self, page: PageParameters) -> Page[OrganizationRead]:
        key = {"principal_id": self._principal_id, "after": page.after or BEFORE_ALL}
        rows = await self._session.execute(LIST_ORGANIZATIONS, key | {"limit": page.limit + 1})
        return Page.of([OrganizationRead.model_validate(row) for row in rows], page.limit)

    async def create(self, new: OrganizationCreate) -> OrganizationRead:
        """Create an organization. The principal is its owner."""
        organization = Organization(name=new.name)
        self._session.add(organization)
        await self._session.flush()
        owner = Member(
            organization_id=organization.id, principal_id=self._principal_id, role="owner"
        )
        self._session.add(owner)
        await self._session.flush()
        return read(organization, owner)

    async def get(self, membership: Membership) -> OrganizationRead:
        return read(await self._get(membership.organization_id), membership)

    async def update(self, membership: Membership, changes: OrganizationUpdate) -> OrganizationRead:
        organization = await self._get(membership.organization_id)
        for name, value in changes.model_dump().items():
            setattr(organization, name, value)
        await self._session.flush()
        return read(organization, membership)

    async def delete(self, membership: Membership, name: str) -> None:
        """Delete an organization with all its rows. Raise `OtherName` if it is not its name."""
        organization = await self._get(membership.organization_id)
        if organization.name != name:
            raise OtherName
        await self._session.delete(organization)

    async def _get(self, organization_id: UUID) -> Organization:
        organization = await self._session.get(Organization, organization_id)
        if organization is None:
            raise NotFound(f"There is no organization {organization_id}.")
        return organization


def read(organization: Organization, member: Member | Membership) -> OrganizationRead:
    return OrganizationRead(
        id=organization.id,
        name=organization.name,
        role=member.role,
        created_at=organization.created_at,
        updated_at=organization.updated_at,
    )
