"""A service that keeps the API keys of its customers in a table of its own, with an upstream key for some of them.

Run it in the repository's root:

    ANTHROPIC_API_KEY=sk-ant-... KEYS_DATABASE=keys.db uvicorn examples.keys_in_a_database:app

Clients use the base URL http://127.0.0.1:8000 and a key of the table. To add one, with its plan:

    python -m examples.keys_in_a_database CUSTOMER PLAN
"""

import asyncio
import hashlib
import os
import secrets
import sqlite3
import sys
from contextlib import closing

from starlette.exceptions import HTTPException

from bud_asgi import Anthropic, HostToken, MessagesApp, Principal, Secret

PREFIX = "shop-"
TABLE = "CREATE TABLE IF NOT EXISTS keys (hash TEXT PRIMARY KEY, customer TEXT, plan TEXT, upstream_key TEXT)"
MODELS = {"basic": ("claude-haiku-*",), "pro": ("*",)}


def query(sql: str, *values: str | None) -> list[tuple[str, ...]]:
    """Run a statement; replace it with your own database."""
    with closing(sqlite3.connect(os.environ["KEYS_DATABASE"])) as database, database:
        database.execute(TABLE)
        return database.execute(sql, values).fetchall()


def add_key(customer: str, plan: str, upstream_key: str | None = None) -> str:
    """Make a key of 256 random bits, and store its hash only."""
    key = PREFIX + secrets.token_urlsafe(32)
    query("INSERT INTO keys VALUES (?, ?, ?, ?)", digest(key), customer, plan, upstream_key)
    return key


def digest(key: str) -> str:
    """Return the form in which a key is stored."""
    return hashlib.sha256(key.encode()).hexdigest()


async def customer_of(key: str) -> Principal | None:
    """Return the customer with a key, for the gateway."""
    rows = await asyncio.to_thread(query, "SELECT customer, plan FROM keys WHERE hash = ?", digest(key))
    if not rows:
        return None
    customer, plan = rows[0]
    if plan == "overdue":
        raise HTTPException(402, "Your last invoice has not been paid")
    return Principal(id=customer, models=MODELS[plan])


async def upstream_key_of(principal: Principal) -> str | None:
    """Return a customer's own key for Anthropic, if it has left one here; it is cached for a minute."""
    sql = "SELECT upstream_key FROM keys WHERE customer = ? AND upstream_key IS NOT NULL"
    rows = await asyncio.to_thread(query, sql, principal.id)
    return rows[0][0] if rows else Secret.from_env("ANTHROPIC_API_KEY").reveal()


app = MessagesApp(
    auth=HostToken(customer_of, prefix=PREFIX),
    providers=[
        Anthropic(api_key=upstream_key_of, base_url=os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com"))
    ],
)

if __name__ == "__main__":
    print(add_key(*sys.argv[1:3]))
