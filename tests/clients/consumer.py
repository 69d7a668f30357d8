"""Code of a team that uses the generated Python client. `test_clients.py` runs it."""

import os
from collections.abc import Iterator
from secrets import token_hex, token_urlsafe
from uuid import uuid4

import pytest
from my_service_client import AuthenticatedClient, Client
from my_service_client.api.auth import get_me, get_user, grant_token, sign_up, update_user
from my_service_client.api.items import create_item, delete_item, get_item, list_items, update_item
from my_service_client.models import (
    AccountRead,
    AccountUpdate,
    FieldProblem,
    ItemCreate,
    ItemRead,
    ItemUpdate,
    PageReadItemRead,
    Problem,
    Role,
    TokenProblem,
    TokenProblemError,
    TokenRead,
    TokenRequest,
    TokenRequestGrantType,
    UserCreate,
    UserRead,
)
from my_service_client.types import UNSET, Unset

URL = os.environ["SERVICE_URL"]


def request_token(email: str, password: str) -> TokenRead | TokenProblem | Problem | None:
    form = TokenRequest(TokenRequestGrantType.PASSWORD, username=email, password=password)
    with Client(URL) as client:
        return grant_token.sync(client=client, body=form)


def log_in(email: str, password: str) -> AuthenticatedClient:
    token = request_token(email, password)
    assert isinstance(token, TokenRead)
    return AuthenticatedClient(URL, token.access_token)


@pytest.fixture
def credentials() -> tuple[str, str]:
    return f"{token_hex(4)}@example.com", token_urlsafe(16)


@pytest.fixture
def user(credentials: tuple[str, str]) -> UserRead:
    with Client(URL) as client:
        user = sign_up.sync(client=client, body=UserCreate(*credentials))
    assert isinstance(user, UserRead)
    return user


@pytest.fixture
def client(user: UserRead, credentials: tuple[str, str]) -> Iterator[AuthenticatedClient]:
    with log_in(*credentials) as client:
        yield client


@pytest.fixture
def administrator() -> Iterator[AuthenticatedClient]:
    with log_in(os.environ["ADMIN_EMAIL"], os.environ["ADMIN_PASSWORD"]) as client:
        yield client


def create(client: AuthenticatedClient, name: str) -> ItemRead:
    item = create_item.sync(client=client, body=ItemCreate(name))
    assert isinstance(item, ItemRead)
    return item


def change(client: AuthenticatedClient, user: UserRead, changes: AccountUpdate) -> AccountRead:
    account = update_user.sync(user.id, client=client, body=changes)
    assert isinstance(account, AccountRead)
    return account


def test_a_login(client: AuthenticatedClient, user: UserRead) -> None:
    assert get_me.sync(client=client) == user
    assert user.role is Role.USER


def test_a_wrong_password(user: UserRead) -> None:
    problem = request_token(user.email, "wrong")
    assert isinstance(problem, TokenProblem)
    assert problem.error is TokenProblemError.INVALID_GRANT
    assert problem.error_description == problem.detail


def test_a_token_that_is_not_valid() -> None:
    with AuthenticatedClient(URL, "wrong") as client:
        problem = get_me.sync(client=client)
    assert isinstance(problem, Problem)
    assert problem.status == 401


def test_items(client: AuthenticatedClient) -> None:
    item = create(client, "Tea")
    renamed = update_item.sync(item.id, client=client, body=ItemUpdate(name="Green tea"))
    assert isinstance(renamed, ItemRead)
    assert renamed.name == "Green tea"
    assert get_item.sync(item.id, client=client) == renamed
    assert delete_item.sync_detailed(item.id, client=client).status_code == 204
    assert isinstance(get_item.sync(item.id, client=client), Problem)


def test_a_partial_update_of_an_item(client: AuthenticatedClient) -> None:
    item = create_item.sync(client=client, body=ItemCreate("Tea", description="Green"))
    assert isinstance(item, ItemRead)
    renamed = update_item.sync(item.id, client=client, body=ItemUpdate(name="Coffee"))
    assert isinstance(renamed, ItemRead)
    assert renamed.description == "Green"


def test_pages(client: AuthenticatedClient) -> None:
    names = [create(client, name).name for name in ("one", "two", "three", "four", "five")]
    sizes: list[int] = []
    listed: list[str] = []
    after: str | Unset | None = UNSET
    while after is not None:
        page = list_items.sync(client=client, limit=2, after=after)
        assert isinstance(page, PageReadItemRead)
        sizes.append(len(page.items))
        listed += [item.name for item in page.items]
        after = page.next_
    assert sizes == [2, 2, 1]
    assert listed == names


def test_an_item_that_does_not_exist(client: AuthenticatedClient) -> None:
    problem = get_item.sync(uuid4(), client=client)
    assert isinstance(problem, Problem)
    assert (problem.status, problem.title) == (404, "Not Found")
    assert problem.request_id


def test_a_field_that_is_not_valid(client: AuthenticatedClient) -> None:
    problem = create_item.sync(client=client, body=ItemCreate(""))
    assert isinstance(problem, Problem)
    assert problem.status == 422
    assert isinstance(problem.errors, list)
    [field] = problem.errors
    assert isinstance(field, FieldProblem)
    assert (field.field, field.pointer) == ("body.name", "#/name")


def test_deactivating_an_administrator_keeps_the_role(
    administrator: AuthenticatedClient, user: UserRead
) -> None:
    assert change(administrator, user, AccountUpdate(role=Role.ADMIN)).role is Role.ADMIN
    account = change(administrator, user, AccountUpdate(is_active=False))
    assert (account.role, account.is_active) == (Role.ADMIN, False)
    assert get_user.sync(user.id, client=administrator) == account


def test_a_new_role_does_not_activate_an_account(
    administrator: AuthenticatedClient, user: UserRead
) -> None:
    assert not change(administrator, user, AccountUpdate(is_active=False)).is_active
    account = change(administrator, user, AccountUpdate(role=Role.ADMIN))
    assert (account.role, account.is_active) == (Role.ADMIN, False)
