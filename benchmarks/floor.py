"""The floor: the same responses as the service, with only Starlette, asyncpg, PyJWT and json.

It has no access log, security headers, throttle or layers, each of which takes time.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from secrets import token_hex, token_urlsafe
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID, uuid4

import asyncpg
import jwt
from anyio import CapacityLimiter, to_thread
from argon2 import PasswordHasher
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uuid_utils.compat import uuid7

SECRET = os.environ["AUTH_SECRET"]
ISSUER = AUDIENCE = "my-service"
REQUIRED = {"require": ["iss", "aud", "sub", "sid", "iat", "exp", "jti"]}
ACCESS = timedelta(seconds=int(os.environ["AUTH_ACCESS_TOKEN_LIFETIME"]))
REFRESH = timedelta(days=30)
LIMITS = {"name": (1, 200), "description": (0, 2000)}

FIND_CALLER = """
    SELECT users.id, users.email, users.role
    FROM users JOIN user_sessions ON user_sessions.user_id = users.id
    WHERE users.id = $1 AND user_sessions.id = $2 AND users.is_active
"""
ITEM = "id, name, description, created_at, updated_at"
LIST = f"SELECT {ITEM} FROM items WHERE owner_id = $1 ORDER BY id LIMIT $2"  # noqa: S608
LIST_AFTER = f"SELECT {ITEM} FROM items WHERE owner_id = $1 AND id > $3 ORDER BY id LIMIT $2"  # noqa: S608
READ = f"SELECT {ITEM} FROM items WHERE owner_id = $1 AND id = $2"  # noqa: S608
CREATE = f"INSERT INTO items (owner_id, {ITEM}) VALUES ($1, $2, $3, $4, $5, $5)"  # noqa: S608
UPDATE = f"""
    UPDATE items SET updated_at = $3, name = COALESCE($4, name),
        description = COALESCE($5, description)
    WHERE owner_id = $1 AND id = $2
    RETURNING {ITEM}
"""  # noqa: S608
FIND_PASSWORD = "SELECT id, password_hash FROM users WHERE email = $1 AND is_active"
START_SESSION = """
    INSERT INTO user_sessions
        (id, user_id, family_hash, token_hash, user_agent, expires_at, created_at, updated_at)
    VALUES ($1, $2, $3, $4, '', $5, $6, $6)
"""

hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
hashing = CapacityLimiter(min(4, os.cpu_count() or 1))


async def keep(connection: object) -> None:
    """Skip the query that resets a connection: no request changes its settings."""


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, Any]]:
    async with asyncpg.create_pool(
        os.environ["DATABASE_URL"],
        min_size=0,
        max_size=int(os.environ["DATABASE_POOL_SIZE"]),
        reset=keep,
    ) as pool:
        yield {"pool": pool}


def verify(request: Request) -> dict[str, Any]:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    try:
        token_parts = jwt.decode_complete(
            token, SECRET, ["HS256"], REQUIRED, issuer=ISSUER, audience=AUDIENCE, leeway=10
        )
    except jwt.InvalidTokenError:
        raise HTTPException(401) from None
    if scheme.lower() != "bearer" or token_parts["header"].get("typ") != "at+jwt":
        raise HTTPException(401)
    return token_parts["payload"]


async def identify(request: Request, connection: Any) -> Any:
    claims = verify(request)
    key = UUID(claims["sub"]), UUID(claims["sid"])
    caller = await connection.fetchrow(FIND_CALLER, *key)
    if caller is None:
        raise HTTPException(401)
    return caller


def write_time(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def write_item(item: Any) -> dict[str, Any]:
    return {
        "id": str(item["id"]),
        "name": item["name"],
        "description": item["description"],
        "created_at": write_time(item["created_at"]),
        "updated_at": write_time(item["updated_at"]),
    }


async def read_item(request: Request, *, is_new: bool) -> dict[str, str] | Response:
    """Return the fields of the body, or the response that the service gives for an invalid one."""
    body: dict[str, Any] = await request.json()
    errors = []
    if is_new and "name" not in body:
        errors.append({"field": "body.name", "pointer": "#/name", "detail": "Field required"})
    for name, value in body.items():
        detail = ""
        if name not in LIMITS:
            detail = "Extra inputs are not permitted"
        elif not isinstance(value, str):
            detail = "Input should be a valid string"
        elif len(value) < LIMITS[name][0]:
            detail = "String should have at least 1 character"
        elif len(value) > LIMITS[name][1]:
            detail = f"String should have at most {LIMITS[name][1]} characters"
        if detail:
            errors.append({"field": f"body.{name}", "pointer": f"#/{name}", "detail": detail})
    if not errors:
        return body
    problem = {
        "type": "urn:problem-type:invalid-request",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "The request is not valid.",
        "request_id": token_hex(16),
        "errors": errors,
    }
    return JSONResponse(problem, 422, media_type="application/problem+json")


async def live(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def get_claims(request: Request) -> Response:
    claims = verify(request)
    return JSONResponse(
        {"user_id": claims["sub"], "session_id": claims["sid"], "token_id": claims["jti"]}
    )


async def get_me(request: Request) -> Response:
    async with request.state.pool.acquire() as connection:
        caller = await identify(request, connection)
    return JSONResponse({"id": str(caller["id"]), "email": caller["email"], "role": caller["role"]})


async def list_items(request: Request) -> Response:
    limit = int(request.query_params.get("limit", 50))
    cursor = request.query_params.get("after")
    async with request.state.pool.acquire() as connection:
        caller = await identify(request, connection)
        if cursor:
            rows = await connection.fetch(LIST_AFTER, caller["id"], limit + 1, UUID(cursor))
        else:
            rows = await connection.fetch(LIST, caller["id"], limit + 1)
    items = [write_item(item) for item in rows[:limit]]
    return JSONResponse({"items": items, "next": items[-1]["id"] if len(rows) > limit else None})


async def get_item(request: Request) -> Response:
    async with request.state.pool.acquire() as connection:
        caller = await identify(request, connection)
        item = await connection.fetchrow(READ, caller["id"], UUID(request.path_params["item_id"]))
    if item is None:
        raise HTTPException(404)
    return JSONResponse(write_item(item))


async def create_item(request: Request) -> Response:
    async with request.state.pool.acquire() as connection:
        caller = await identify(request, connection)
        new = await read_item(request, is_new=True)
        if isinstance(new, Response):
            return new
        now = datetime.now(UTC)
        item = {"id": uuid7(), "description": "", **new, "created_at": now, "updated_at": now}
        await connection.execute(
            CREATE, caller["id"], item["id"], item["name"], item["description"], now
        )
    return JSONResponse(write_item(item), 201)


async def update_item(request: Request) -> Response:
    async with request.state.pool.acquire() as connection:
        caller = await identify(request, connection)
        changes = await read_item(request, is_new=False)
        if isinstance(changes, Response):
            return changes
        key = caller["id"], UUID(request.path_params["item_id"])
        values = changes.get("name"), changes.get("description")
        item = await connection.fetchrow(UPDATE, *key, datetime.now(UTC), *values)
    if item is None:
        raise HTTPException(404)
    return JSONResponse(write_item(item))


async def log_in(request: Request) -> Response:
    form = dict(parse_qsl((await request.body()).decode()))
    async with request.state.pool.acquire() as connection:
        account = await connection.fetchrow(FIND_PASSWORD, form["username"])
    check = partial(hasher.verify, account["password_hash"], form["password"])
    await to_thread.run_sync(check, limiter=hashing)
    now, session = datetime.now(UTC), uuid7()
    parts = token_urlsafe(16), token_urlsafe(32)
    hashes = [sha256(part.encode()).digest() for part in parts]
    async with request.state.pool.acquire() as connection, connection.transaction():
        expires = now + REFRESH
        await connection.execute(START_SESSION, session, account["id"], *hashes, expires, now)
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(account["id"]),
        "sid": str(session),
        "iat": now,
        "exp": now + ACCESS,
        "jti": str(uuid4()),
    }
    return JSONResponse(
        {
            "access_token": jwt.encode(claims, SECRET, "HS256", {"typ": "at+jwt"}),
            "refresh_token": ".".join(parts),
            "token_type": "bearer",
            "expires_in": int(ACCESS.total_seconds()),
        }
    )


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/health/live", live),
        Route("/v1/claims", get_claims),
        Route("/v1/auth/me", get_me),
        Route("/v1/auth/token", log_in, methods=["POST"]),
        Route("/v1/items", list_items),
        Route("/v1/items", create_item, methods=["POST"]),
        Route("/v1/items/{item_id}", get_item),
        Route("/v1/items/{item_id}", update_item, methods=["PATCH"]),
    ],
)
