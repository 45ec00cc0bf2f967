"""Several authenticators for one app: each credential goes to the one whose kind it is, and to no other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeGuard, cast, runtime_checkable

import msgspec
from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser
from starlette.requests import HTTPConnection
from starlette.types import Scope

from bud_asgi.auth.credentials import (
    CREDENTIAL_HEADERS,
    Authenticated,
    Credential,
    Status,
    check_credential_headers,
    credentials_of,
    refusal_words,
    worst_of,
)
from bud_asgi.auth.throttle import Throttle, TooManyFailures
from bud_asgi.exchange import Exchange
from bud_asgi.options import OptionError, check_function, check_items, check_methods, check_type, mismatch
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.headers import Headers, merge_headers


@runtime_checkable
class BackendWithStore(Protocol):
    """A backend that calls a store."""

    async def status(self) -> Status:
        """Whether the store answers."""
        ...

    async def aclose(self) -> None:
        """Close the connections of the running event loop; they are opened again when needed."""
        ...


@runtime_checkable
class KnowsStatus(Protocol):
    """A backend with a store that remembers whether it has answered."""

    def known_status(self) -> Status:
        """The status as of the last call to the store. Calls nothing."""
        ...


@runtime_checkable
class BackendWithIssuers(Protocol):
    """A backend that needs the keys of issuers."""

    def unavailable_issuers(self) -> Sequence[str]:
        """The issuers whose tokens cannot be verified at present."""
        ...


@runtime_checkable
class Continuing(Protocol):
    """A backend that can replace another one while the app runs, and continue from it."""

    def continue_from(self, former: Any) -> None:
        """Take over the caches of the previous backend, of this class. It must not fail."""
        ...


class Pending(msgspec.Struct, frozen=True, gc=False):
    """A check that has to wait, for a store or a key set. Awaiting `wait()` raises `AuthenticationError` like `check`.

    `is_known`: the credential was valid lately, so that it is checked again whatever else came from its address.
    """

    wait: Callable[[], Awaitable[Authenticated]]
    is_known: bool = False


Proof = tuple[Authenticated, tuple[bytes, ...]]
"""The caller, and the names of the headers that hold credentials of this gateway: they are never sent upstream."""

_Verdict = Authenticated | Pending | AuthenticationError | None

REQUIRED = "x-api-key header is required"
UNAUTHENTICATED = "authentication is required"
"""The message for a request without a credential, where it is not known what that would be."""

BACKEND_EXPECTED = (
    "an object with an async method authenticate(connection), such as ApiKeys({...}), HostUser(...) or Anonymous()"
)


class CredentialBackend(AuthenticationBackend):
    """An authenticator that decides by one secret: an API key, or a token. Subclasses implement `check`.

    `required` is the message for a request without a credential.
    """

    required = REQUIRED

    def check(self, credential: bytes) -> Authenticated | Pending | None:
        """Return the caller that a credential belongs to. It must not wait, and must compare in constant time.

        `None`: the credential is of another kind. It is then offered to the next authenticator, and may be the
        caller's own key for an upstream. Where a store has to be asked, the result is a `Pending`. Raises
        `AuthenticationError` for a credential of this kind that is not valid.
        """
        raise NotImplementedError

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """The same for a connection, as Starlette's middleware needs it; `None` without a credential."""
        return await FirstOf([self]).authenticate(conn)


class FirstOf(AuthenticationBackend):
    """Authenticates by the first of several backends that recognises the caller; `auth=[...]` makes one.

    A credential, a bearer token or an `x-api-key`, is offered to the `ApiKeys`, `Jwt` and other `CredentialBackend`s in
    their order, until one recognises its kind: that one decides, and the next ones never get it. Of two different
    credentials the bearer token is tried first, and one valid credential is enough. All other backends (`HostUser`,
    Starlette's) are asked after those, and get the whole connection; not if every credential of the request was
    refused. A provider with `auth="client"` forwards no header that they may have read: both, unless they have an
    attribute `credential_headers` with the names. `throttle` limits the failures of one address, by default
    `Throttle()`. `closables` are the backends whose stores have connections. Raises `OptionError`.
    """

    def __init__(self, backends: Sequence[AuthenticationBackend], *, throttle: Throttle | None = None) -> None:
        given = _checked_backends("backends", backends)
        if throttle is not None:
            check_type("throttle", throttle, Throttle, "a Throttle")
        self._throttle = throttle or Throttle()
        self._checkers: tuple[CredentialBackend, ...] = tuple(backend for backend in given if _is_checker(backend))
        self.others = tuple(backend for backend in given if not _is_checker(backend))
        self.closables = tuple(backend for backend in given if isinstance(backend, BackendWithStore))
        self._with_issuers = tuple(backend for backend in given if isinstance(backend, BackendWithIssuers))
        self._continuing = tuple(backend for backend in given if isinstance(backend, Continuing))
        self._last_status: Status = "ready"
        self.required: str = getattr(given[0], "required", UNAUTHENTICATED)

    @property
    def takes_keys(self) -> bool:
        """Whether one of the backends decides by a secret alone."""
        return bool(self._checkers)

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """The caller of a connection, as Starlette's middleware needs it; `None` without a credential.

        Raises `AuthenticationError`.
        """
        try:
            return await self._authenticate(conn)
        except GatewayError as error:
            raise AuthenticationError(str(error)) from error

    async def _authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        exchange = Exchange.of(conn.scope) if conn.scope["type"] == "http" else None
        headers = merge_headers(conn.scope["headers"]) if exchange is None else exchange.headers
        proof = self.find(headers, conn.scope)
        proof = proof if proof is None or isinstance(proof, tuple) else await proof
        if proof is not None:
            if exchange is not None:
                exchange.credential_headers = proof[1]
            return proof[0]
        for backend in self.others:
            if (found := await backend.authenticate(conn)) is not None:
                note_credential_headers(backend, conn.scope)
                return found
        if credentials_of(headers) or headers.get(b"authorization"):
            raise self.refusal(headers, conn.scope)
        return None

    def find(self, headers: Headers, scope: Scope) -> Proof | Coroutine[Any, Any, Proof | None] | None:
        """The caller that the credentials prove; `None` if there is no credential, or only one of an unknown kind.

        Where that is not known at once, returns a coroutine. It raises `AuthenticationError` if all credentials are
        refused, `TooManyFailures`, and what a check raises otherwise.
        """
        credentials = credentials_of(headers)
        if not credentials or not self._checkers:
            return None
        value, names = credentials[0]
        found = self._check(value)
        if len(credentials) == 1 and isinstance(found, tuple):
            return found, names
        return self._search(credentials, found, headers, scope)

    def refusal(self, headers: Headers, scope: Scope) -> AuthenticationError:
        """Count a failure, and return the error for credentials that no backend admits. Raises `TooManyFailures`."""
        if not self._checkers:  # a login of the host's: the request's credentials may not be for it
            return AuthenticationError(self.required)
        if credentials_of(headers):
            _Failure(self._throttle, headers, scope).count()
        return AuthenticationError(refusal_words(headers, self.required))

    async def status(self) -> Status:
        """The status of the backend whose store is in the worst state; `ready` without stores."""
        self._last_status = worst_of([await backend.status() for backend in self.closables])
        return self._last_status

    def known_status(self) -> Status:
        """The same as of the last calls to the stores. Calls nothing."""
        return worst_of(
            [
                backend.known_status() if isinstance(backend, KnowsStatus) else self._last_status
                for backend in self.closables
            ]
        )

    def unavailable_issuers(self) -> Sequence[str]:
        """The issuers whose tokens cannot be verified at present."""
        return [issuer for backend in self._with_issuers for issuer in backend.unavailable_issuers()]

    def continue_from(self, former: FirstOf) -> None:
        """Take over the failures that the previous chain has counted, and the caches of its backends."""
        self._throttle.continue_from(former._throttle)
        for backend in self._continuing:
            for other in former._continuing:
                if type(other) is type(backend) and other is not backend:
                    backend.continue_from(other)

    async def aclose(self) -> None:
        """Close the stores' connections of the running event loop; they are opened again when needed."""
        for backend in self.closables:
            await backend.aclose()

    async def _search(
        self, credentials: Sequence[Credential], first: _Verdict, headers: Headers, scope: Scope
    ) -> Proof | None:
        """Try the credentials in turn. An unknown one that takes a store counts as a failure until one is valid.

        `first` is the result of checking the first one.
        """
        failure = _Failure(self._throttle, headers, scope)
        refusals: list[AuthenticationError | TooManyFailures] = []
        for index, (value, _) in enumerate(credentials):
            found = self._check(value) if index else first
            if isinstance(found, Pending):
                found = await _wait(found, failure)
            if isinstance(found, tuple):
                failure.take_back()
                return found, self._withheld(credentials, index)
            if found is not None:
                refusals.append(found)
        if len(refusals) < len(credentials):
            return None
        failure.count()
        raise next(filter(str, refusals), None) or AuthenticationError(refusal_words(headers, self.required))

    def _check(self, credential: bytes) -> _Verdict:
        found: Authenticated | Pending | None
        for backend in self._checkers:
            try:
                found = backend.check(credential)
            except AuthenticationError as error:
                return error
            if found is not None:
                return found
        return None

    def _withheld(self, credentials: Sequence[Credential], proved: int) -> tuple[bytes, ...]:
        """The headers of the credential that proved the caller, and of others that are for this gateway too."""
        names = credentials[proved][1]
        for index, (value, headers) in enumerate(credentials):
            if index != proved and any(self._check(part.strip()) is not None for part in (value, *value.split(b","))):
                names += headers
        return names


class _Failure:
    """The failure of one request, which is counted once, and taken back if the request is authenticated after all."""

    def __init__(self, throttle: Throttle, headers: Headers, scope: Scope) -> None:
        self._throttle = throttle
        self._headers = headers
        self._scope = scope
        self._address: str | None = None

    def count(self) -> None:
        if self._address is None and (address := self._throttle.address_of(self._scope, self._headers)):
            self._throttle.take(address)
            self._address = address

    def take_back(self) -> None:
        if self._address is not None:
            self._throttle.give_back(self._address)


async def _wait(pending: Pending, failure: _Failure) -> Authenticated | AuthenticationError | TooManyFailures:
    try:
        if not pending.is_known:
            failure.count()
        return await pending.wait()
    except (AuthenticationError, TooManyFailures) as error:
        return error
    except GatewayError as error:
        if error.status != 401:  # a store that cannot be asked is not the caller's failure
            failure.take_back()
        raise


def note_credential_headers(backend: AuthenticationBackend, scope: Scope) -> None:
    """Note the headers that a backend with the whole connection may have read: they are never sent upstream.

    Those are both, unless it has an attribute `credential_headers` with their names, or one of ours behind it has noted
    them already.
    """
    if scope["type"] != "http" or isinstance(backend, FirstOf):  # which notes its own
        return
    exchange = Exchange.of(scope)
    if not exchange.credential_headers:
        names: Sequence[str] = getattr(backend, "credential_headers", CREDENTIAL_HEADERS)
        exchange.credential_headers = tuple(name.lower().encode() for name in names)


def as_chain(option: str, value: object) -> FirstOf:
    """Check for a backend, or a list of them, and return it as a chain. Raises `OptionError`."""
    if isinstance(value, FirstOf):
        return value
    if isinstance(value, list | tuple):
        return FirstOf(_checked_backends(option, cast("Sequence[AuthenticationBackend]", value)))
    _check_backend(option, value)
    return FirstOf([cast("AuthenticationBackend", value)])


def _checked_backends(option: str, backends: Sequence[AuthenticationBackend]) -> tuple[AuthenticationBackend, ...]:
    given = check_items(option, backends, "a list of authentication backends", _check_backend)
    if not given:
        raise OptionError(option, "an empty list; expected at least one authentication backend")
    return given


def _check_backend(option: str, value: object) -> None:
    """Check for an authentication backend: not its class, and no function. Raises `OptionError`."""
    check_methods(option, value, BACKEND_EXPECTED, ("authenticate",))
    if getattr(type(value), "authenticate", None) is AuthenticationBackend.authenticate:  # which is not implemented
        raise mismatch(option, BACKEND_EXPECTED, value)
    check_function(option, cast("AuthenticationBackend", value).authenticate, BACKEND_EXPECTED, None)
    check_credential_headers(f"{option}.credential_headers", getattr(value, "credential_headers", ()))


def _is_checker(backend: object) -> TypeGuard[CredentialBackend]:
    """Whether a backend decides by a credential alone; a subclass may have an `authenticate` of its own."""
    return isinstance(backend, CredentialBackend) and type(backend).authenticate is CredentialBackend.authenticate
