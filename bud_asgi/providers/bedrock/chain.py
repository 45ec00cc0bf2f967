"""Where AWS keys come from: botocore's credential chain, the roles assumed with its keys, and credentials of the host.

Vendor pages "Standardized credential providers", "AssumeRole". botocore blocks, so it runs in a thread; it is imported
there, on first use.
"""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Callable
from importlib import import_module
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from bud_asgi.providers.bedrock.sigv4 import Keys
from bud_asgi.providers.debug_logs import without_debug_logs
from bud_asgi.providers.refresher import RefreshTiming
from bud_asgi.providers.threads import start_thread
from bud_asgi.secret import Secret

if TYPE_CHECKING:
    from botocore.session import Session

THREAD_NAME = "bud_asgi AWS keys"

HOST_CHECK_INTERVAL = 60.0
"""Seconds that the keys of a host's credentials object are used before the object is called again."""

_MAX_LIFETIME = float(1 << 22)
"""Seconds, 48 days: keys that live longer are treated as if they expired then."""

_ATTEMPTS = 2
_MACHINE_PROVIDERS = frozenset(
    {"env", "assume-role", "ec2-credentials-file", "boto-config", "container-role", "iam-role"}
)
_EXPIRY_PRECISION = 0.1
"""Seconds."""


class FrozenCredentials(Protocol):
    """The keys at one moment, as `botocore.credentials.ReadOnlyCredentials` has them."""

    @property
    def access_key(self) -> str | None:
        """The access key id."""
        ...

    @property
    def secret_key(self) -> str | None:
        """The secret access key."""
        ...

    @property
    def token(self) -> str | None:
        """The session token of temporary keys."""
        ...


class HostCredentials(Protocol):
    """A credentials object of botocore or boto3, such as `boto3.Session().get_credentials()`."""

    def get_frozen_credentials(self) -> FrozenCredentials:
        """Return the current keys, after refreshing them if they are about to expire. Blocks."""
        ...


class Role(msgspec.Struct, frozen=True):
    """A role to assume."""

    arn: str
    session_name: str
    external_id: str | None = None


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where to get keys. STS is called in `region` unless AWS's own configuration names a region."""

    region: str
    profile: str | None = None
    keys: Keys | None = None
    role: Role | None = None
    host: HostCredentials | None = None

    def __str__(self) -> str:
        """Describe the source without its secrets."""
        if self.host is not None:
            return "credentials of the host"
        way = "keys" if self.keys else f"profile {self.profile!r}" if self.profile else "AWS's chain"
        return f"{self.role.arn} by {way}" if self.role else way


async def fetch_keys(source: Source, timing: RefreshTiming) -> tuple[Keys, float]:
    """Return keys, and when they expire in seconds since the epoch.

    A session is made for each fetch, so that files that changed are read again. Raises whatever the chain raises, and
    `LookupError` if it finds nothing. When cancelled it kills a running `credential_process` at once; the thread ends
    with its current network call, whose timeouts are fractions of `timing.timeout`.
    """
    fetch = _Fetch(source, timing)
    try:
        return await asyncio.wrap_future(start_thread(fetch.run, THREAD_NAME))
    finally:
        fetch.stop()


class _Fetch:
    """One fetch in a thread, and the processes that it started."""

    def __init__(self, source: Source, timing: RefreshTiming) -> None:
        self._source = source
        self._timing = timing
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[Any]] = []
        self._is_stopped = False

    def run(self) -> tuple[Keys, float]:
        source = self._source
        if source.host is None:
            import_module("botocore.session")  # its loggers must exist before they are filtered
        with without_debug_logs("botocore", "urllib3"):
            if source.host is not None:
                keys, seconds = _frozen(source.host)
                return keys, self._timing.clock() + min(seconds, HOST_CHECK_INTERVAL)
            session = self._session(source.profile)
            if source.role is not None:
                return _assume(session, source.role)
            credentials = session.get_credentials()
            if credentials is None:
                raise LookupError("AWS's credential chain found no credentials")
            keys, seconds = _frozen(credentials)
            return keys, self._timing.clock() + seconds

    def stop(self) -> None:
        """Kill the processes that still run, and start no more."""
        with self._lock:
            self._is_stopped = True
            for process in self._processes:
                if process.poll() is None:
                    process.kill()

    def _session(self, profile: str | None) -> Session:
        from botocore.config import Config  # noqa: PLC0415 - takes half a second, and belongs to an extra
        from botocore.session import Session  # noqa: PLC0415

        session = Session(profile=profile)
        if session.get_config_variable("region") is None:
            session.set_config_variable("region", self._source.region)
        each = self._timing.timeout / _ATTEMPTS
        retries: Any = {"total_max_attempts": _ATTEMPTS, "mode": "standard"}
        session.set_default_client_config(Config(connect_timeout=each, read_timeout=each, retries=retries))
        if keys := self._source.keys:
            token = keys.session_token.reveal() if keys.session_token else None
            session.set_credentials(keys.access_key.reveal(), keys.secret_key.reveal(), token)
        else:
            self._run_unattended(session)
        return session

    def _run_unattended(self, session: Session) -> None:
        """Replace the providers that start a process or prompt for an MFA code at the terminal.

        The process must not read the terminal, and must not outlive the fetch.
        """
        from botocore.credentials import (  # noqa: PLC0415
            AssumeRoleProvider,
            CanonicalNameCredentialSourcer,
            EnvProvider,
            ProcessProvider,
        )

        def load_config() -> Any:
            return session.full_config

        def create_client(service: str, **options: Any) -> Any:
            return session.create_client(service, **options)  # pyright: ignore[reportCallIssue, reportArgumentType]

        chain: Any = session.get_component("credential_provider")
        profile = session.get_config_variable("profile") or "default"
        by_method = {provider.METHOD: provider for provider in chain.providers}
        machine = [by_method[name] for name in ("container-role", "iam-role") if name in by_method]

        def source_session(source_profile: str) -> Session:
            source = self._session(source_profile)
            source.set_config_variable("region", session.get_config_variable("region"))
            return source

        replacements: list[Any] = [
            ProcessProvider(profile, load_config, popen=self._popen),
            AssumeRoleProvider(
                load_config,
                create_client,
                cache={},
                profile_name=profile,
                prompter=_refuse_mfa,
                credential_sourcer=CanonicalNameCredentialSourcer([EnvProvider(), *machine]),
                profile_provider_builder=_SourceProfiles(source_session),
            ),
        ]
        for replacement in replacements:
            if replacement.METHOD in by_method:
                chain.insert_after(replacement.METHOD, replacement)
                chain.remove(replacement.METHOD)  # the first with this name, which is botocore's own

    def _popen(self, command: list[str], **options: Any) -> Any:
        with self._lock:
            if self._is_stopped:
                raise TimeoutError
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)  # noqa: S603 - the user's own
            self._processes.append(process)
        return process


class _SourceProfiles:
    """Makes the providers of the profile that a role's profile names as its `source_profile`."""

    def __init__(self, session: Callable[[str], Session]) -> None:
        self._session = session

    def providers(self, profile_name: str, disable_env_vars: bool = False) -> list[Any]:
        chain: Any = self._session(profile_name).get_component("credential_provider")
        return [provider for provider in chain.providers if provider.METHOD not in _MACHINE_PROVIDERS]


def _refuse_mfa(_prompt: str) -> str:
    raise LookupError("the profile needs an MFA code, which a server cannot prompt for")


def _assume(session: Session, role: Role) -> tuple[Keys, float]:
    options: dict[str, Any] = {"RoleArn": role.arn, "RoleSessionName": role.session_name}
    if role.external_id is not None:
        options["ExternalId"] = role.external_id
    sts: Any = session.create_client("sts")
    try:
        answer = sts.assume_role(**options)["Credentials"]
    finally:
        sts.close()
    keys = _keys(answer["AccessKeyId"], answer["SecretAccessKey"], answer["SessionToken"])
    return keys, answer["Expiration"].timestamp()


def _frozen(credentials: HostCredentials) -> tuple[Keys, float]:
    frozen = credentials.get_frozen_credentials()
    if not frozen.access_key or not frozen.secret_key:
        raise LookupError("the credentials have no keys")
    return _keys(frozen.access_key, frozen.secret_key, frozen.token), seconds_left(credentials)


def seconds_left(credentials: HostCredentials) -> float:
    """Return how long the keys of a credentials object are still valid; `inf` if they do not expire.

    botocore does not publish the expiry, only whether it is less than so many seconds away, so this bisects.
    """
    expires_within: Callable[[float], bool] | None = getattr(credentials, "refresh_needed", None)
    if expires_within is None or not expires_within(_MAX_LIFETIME):
        return inf
    low, high = 0.0, _MAX_LIFETIME
    while high - low > _EXPIRY_PRECISION:
        middle = (low + high) / 2
        if expires_within(middle):
            high = middle
        else:
            low = middle
    return low


def _keys(access_key: str, secret_key: str, token: str | None) -> Keys:
    return Keys(Secret(access_key), Secret(secret_key), Secret(token) if token else None)
