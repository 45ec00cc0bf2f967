"""Checks of the options that several providers share."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from urllib.parse import urlsplit

from bud_asgi.http import Origin, Timeouts, usual_origin
from bud_asgi.options import (
    OptionError,
    check_flag,
    check_items,
    check_methods,
    check_name,
    check_texts,
    check_type,
    duplicates,
    mismatch,
    name_shown,
)
from bud_asgi.providers.compat.paths import check_drop_fields
from bud_asgi.providers.compat.rules import Service, ServiceRules, service_rules
from bud_asgi.providers.seam import Provider

_HOST = re.compile(r"[0-9A-Za-z._~%:-]+")
_PATH = re.compile(r"[!-~]*")
_BETA = re.compile(r"[0-9A-Za-z._*-]{1,100}")
_BETAS_EXPECTED = 'a list of beta flags, such as ["context-1m-2025-08-07"]'


def check_common(name: str, timeouts: Timeouts | None) -> None:
    """Check the options of every provider. Raises `OptionError`."""
    check_name("name", name)
    if timeouts is not None:
        check_type("timeouts", timeouts, Timeouts, "a Timeouts")


def check_providers(providers: Sequence[Provider]) -> tuple[Provider, ...]:
    """Check for a list of providers with different names, and return it as a tuple. Raises `OptionError`."""
    checked = check_items("providers", providers, "a list of providers", check_provider)
    if not checked:
        raise OptionError("providers", "at least one is needed")
    names = [provider.name for provider in checked]
    for index, first in duplicates(names):
        same = f"two have the name {name_shown(names[index])!r}, providers[{first}] and providers[{index}]"
        raise OptionError("providers", f"{same}; give one of them another name=")
    return checked


def check_provider(option: str, provider: object) -> None:
    """Check for an object with what a `Provider` has: not for its class. Raises `OptionError`."""
    expected = "a provider, such as Anthropic(...)"
    check_methods(option, provider, expected, ("encode", "decode", "translate_error", "models_request"))
    check_name(f"{option}.name", getattr(provider, "name", None))
    credential: object = getattr(provider, "credential", None)
    check_methods(f"{option}.credential", credential, "a Credential", ("apply", "refresh", "redact"))
    check_flag(f"{option}.credential.is_operators", getattr(credential, "is_operators", None))


def adjusted_rules(service: Service, allow_betas: object, drop_betas: object, drop_fields: object) -> ServiceRules:
    """Return the rules of a service as the operator adjusts them. Raises `OptionError`.

    `allow_betas` and `drop_betas` are beta flags, or patterns with `*`, to send although they are not known to be
    supported, and not to send; where both match a flag, the longer one decides. `drop_fields` are request fields to
    leave out: top-level ones such as `metadata`, or paths such as `tools.strict`, in which a list stands for each of
    its items. The fields that a dropped flag enables are dropped with it, and the flags of a dropped field too.
    """
    allow = check_texts("allow_betas", allow_betas, _BETAS_EXPECTED, _BETA)
    drop = check_texts("drop_betas", drop_betas, _BETAS_EXPECTED, _BETA)
    fields = check_drop_fields(drop_fields)
    if both := sorted(set(allow) & set(drop)):
        raise OptionError("drop_betas", f'"{both[0]}" is in allow_betas too', other="allow_betas")
    return service_rules(service).adjusted(allow_betas=allow, drop_betas=drop, drop_fields=fields)


def parse_base_url(base_url: str, tls: ssl.SSLContext | None, option: str = "base_url") -> tuple[Origin, str]:
    """Return the server of a base URL, and its path without a trailing slash.

    `tls` replaces the default context (system authorities, verified). Raises `OptionError`, which never shows what
    could be a password.
    """
    expected = "an http or https URL with a host"
    try:
        may_have_password = "@" in base_url
        url = urlsplit(base_url)
        port = url.port
    except (ValueError, AttributeError, TypeError):  # the text of a ValueError shows what could be a password
        raise mismatch(option, "a URL with a valid host and port", base_url, hide=True) from None
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise mismatch(option, expected, base_url, hide=may_have_password)
    if url.username is not None or url.query or url.fragment:
        raise OptionError(option, "must not contain a user, query or fragment; a credential has its own option")
    if not _PATH.fullmatch(url.path) or not _HOST.fullmatch(url.hostname) or port == 0 or not base_url.isprintable():
        raise OptionError(option, "must be printable ASCII with a percent-encoded path and a valid port")
    if tls is not None:
        check_type("tls", tls, ssl.SSLContext, "an ssl.SSLContext")
    if url.scheme == "http":
        if tls is not None:
            raise OptionError("tls", f"can only be used with an https {option}", other=option)
        return usual_origin(url.hostname, port or 80, tls=False), url.path.rstrip("/")
    if tls is not None:
        return Origin(url.hostname, port or 443, tls), url.path.rstrip("/")
    return usual_origin(url.hostname, port or 443, tls=True), url.path.rstrip("/")
