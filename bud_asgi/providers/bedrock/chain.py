"""Where AWS's keys come from: its own chain, asked through aiobotocore, and the roles assumed with them.

Vendor pages "Standardized credential providers" and "AssumeRole". aiobotocore is imported here, on first use.
"""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable
from datetime import datetime
from math import inf
from typing import Any

import msgspec

from bud_asgi.providers.bedrock.sigv4 import Keys
from bud_asgi.secret import Secret


class Role(msgspec.Struct, frozen=True):
    """A role to assume."""

    arn: str
    session_name: str
    external_id: str | None = None


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to ask for keys. `region` is where STS is asked, if AWS's own configuration names none."""

    region: str
    profile: str | None = None
    keys: Keys | None = None
    role: Role | None = None

    def __str__(self) -> str:
        """The ways, without what they hold."""
        way = "keys" if self.keys else f"profile {self.profile!r}" if self.profile else "AWS's chain"
        return f"{self.role.arn} by {way}" if self.role else way


async def fetch_keys(source: Source) -> tuple[Keys, float]:
    """Fresh keys, and their end in seconds since the epoch.

    Everything is made anew and closed: what aiobotocore keeps (locks, sessions) belongs to one loop, and files may
    have changed. Raises whatever the chain raises, `LookupError` if it finds nothing. Cancelled, it leaves nothing.
    """
    session = await asyncio.to_thread(_session, source)
    processes = _unattended(session)
    try:
        if source.role is not None:
            return await _assumed(session, source.role)
        credentials = await session.get_credentials()
        if credentials is None:
            raise LookupError("AWS's chain of credential providers found none")
        found = await credentials.get_frozen_credentials()
        # Nothing public tells it.
        expires: datetime | None = getattr(credentials, "_expiry_time", None)
        return _keys(found.access_key, found.secret_key, found.token), expires.timestamp() if expires else inf
    finally:
        await _end(processes)


def _session(source: Source) -> Any:
    # In a thread: the import takes half a second, the files of a service's model 40 ms.
    from aiobotocore.config import AioConfig  # noqa: PLC0415
    from aiobotocore.session import AioSession  # noqa: PLC0415

    session = AioSession(profile=source.profile)
    if session.get_config_variable("region") is None:
        session.set_config_variable("region", source.region)
    # So few attempts that what is wrong is told before the deadline.
    retries = {"total_max_attempts": 3, "mode": "standard"}
    session.set_default_client_config(AioConfig(warm_up_loader_caches=True, retries=retries))
    if source.keys is not None:
        token = source.keys.session_token
        session.set_credentials(
            source.keys.access_key.reveal(), source.keys.secret_key.reveal(), token.reveal() if token else None
        )
    return session


async def _assumed(session: Any, role: Role) -> tuple[Keys, float]:
    asked = {"RoleArn": role.arn, "RoleSessionName": role.session_name}
    if role.external_id is not None:
        asked["ExternalId"] = role.external_id
    async with session.create_client("sts") as sts:
        answer = (await sts.assume_role(**asked))["Credentials"]
    keys = _keys(answer["AccessKeyId"], answer["SecretAccessKey"], answer["SessionToken"])
    return keys, answer["Expiration"].timestamp()


def _keys(access_key: str, secret_key: str, token: str | None) -> Keys:
    return Keys(Secret(access_key), Secret(secret_key), Secret(token) if token else None)


def _unattended(session: Any) -> list[Process]:
    """Let the session ask nobody at a terminal; the processes that it starts from now on.

    A `credential_process` that is given up would run on otherwise, and a prompt for an MFA code would stop the loop.
    """
    started: list[Process] = []

    async def start(*command: str, **options: Any) -> Process:
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, **options)
        started.append(process)
        return process

    for provider in session.get_component("credential_provider").providers:
        if provider.METHOD == "custom-process":
            provider._popen = start  # noqa: SLF001
        elif provider.METHOD == "assume-role":
            provider._prompter = _refuse  # noqa: SLF001
            _start_by(start, getattr(provider, "_profile_provider_builder", None))
    return started


def _start_by(start: Callable[..., Awaitable[Process]], profiles: Any) -> None:
    """The same for the providers that are made later, for source profiles."""
    if profiles is None:
        return
    make = profiles._create_process_provider  # noqa: SLF001

    def made(profile_name: str) -> Any:
        provider = make(profile_name)
        provider._popen = start  # noqa: SLF001
        return provider

    profiles._create_process_provider = made  # noqa: SLF001


def _refuse(_prompt: str) -> str:
    raise LookupError("a profile wants an MFA code, and nobody is there to give one")


async def _end(processes: list[Process]) -> None:
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.wait()
