from ..groups import Group, Seconds


class OrganizationsSettings(Group):
    invitation_lifetime: Seconds = 604_800
