"""Routes from the host's own database: a Starlette service in which each tenant has its own, in SQLite.

Run it in the repository's root:

    ANTHROPIC_API_KEY=sk-ant-... uvicorn examples.tenant_routes:app

It makes the table `routes` in `tenants.db`, or in the file that `EXAMPLE_DATABASE` names. Give a tenant a model:

    sqlite3 tenants.db "INSERT INTO routes VALUES ('acme', 'fast', 'anthropic', 'claude-haiku-4-5')"

Clients use the base URL http://127.0.0.1:8000/llm and a session token as the bearer token, such as `session-of-ada`.
"""

import asyncio
import os
import sqlite3
import time
from contextlib import closing

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import Scope

from bud_asgi import Anthropic, HostUser, MessagesApp, Principal, Route, RouteTable, Secret, Target

DATABASE = os.environ.get("EXAMPLE_DATABASE", "tenants.db")
SESSIONS = {"session-of-ada": ("ada", "acme"), "session-of-bob": ("bob", "umbrella")}
"""Users and their tenants. Replace it with your own session store."""

with closing(sqlite3.connect(DATABASE)) as database, database:
    database.execute("CREATE TABLE IF NOT EXISTS routes (tenant TEXT, model TEXT, provider TEXT, upstream_model TEXT)")


class TenantRoutes:
    """The routes of each tenant, read from the database and kept for `max_age` seconds."""

    def __init__(self, database: str, max_age: float) -> None:
        self.max_age = max_age
        self._database = database
        self._kept: dict[str, tuple[float, RouteTable]] = {}  # by tenant: there are as many as in SESSIONS

    async def route(self, model: str, principal: Principal) -> RouteTable:
        """The router: a table of the caller's tenant, in which the model is looked up."""
        tenant = principal.team or ""
        read_at, table = self._kept.get(tenant, (0.0, None))
        if table is None or time.monotonic() - read_at > self.max_age:
            table = await asyncio.to_thread(self._read, tenant)
            self._kept[tenant] = time.monotonic(), table
        return table

    def _read(self, tenant: str) -> RouteTable:
        query = "SELECT model, provider, upstream_model FROM routes WHERE tenant = ? ORDER BY rowid"
        targets: dict[str, list[Target]] = {}
        with closing(sqlite3.connect(self._database)) as connection:
            for model, provider, upstream_model in connection.execute(query, (tenant,)):
                targets.setdefault(model, []).append(Target(provider, upstream_model))
        return RouteTable([Route(model, to) for model, to in targets.items()])


def user_of(scope: Scope) -> Principal | None:
    """Return the user of a request and its tenant, from a bearer token."""
    token = Headers(scope=scope).get("authorization", "").removeprefix("Bearer ")
    if token not in SESSIONS:
        return None
    user, tenant = SESSIONS[token]
    return Principal(id=user, team=tenant)


tenants = TenantRoutes(DATABASE, max_age=10.0)
messages = MessagesApp(
    auth=HostUser(user_of),
    providers=[
        Anthropic(
            api_key=Secret.from_env("ANTHROPIC_API_KEY"),
            base_url=os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
        )
    ],
    routes=tenants.route,
)
app = Starlette()
messages.install(app, "/llm")
