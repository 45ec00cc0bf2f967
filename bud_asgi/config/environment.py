"""The environment alone into `Settings`: for one provider and a few keys, no file is needed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import msgspec

from bud_asgi.auth import ApiKey
from bud_asgi.config.file import read_file
from bud_asgi.config.problems import Problems, shown
from bud_asgi.config.provider_tables import (
    AWS_REGION_WORDS,
    BASE_URL_PATTERN,
    BASE_URL_WORDS,
    KIND_WORDS,
    PROJECT_WORDS,
)
from bud_asgi.config.references import secret_of
from bud_asgi.config.settings import ConfiguredProvider, Settings
from bud_asgi.config.tables import HASH_PATTERN
from bud_asgi.providers import Anthropic, Bedrock, Vertex
from bud_asgi.providers.anthropic import BASE_URL

SOURCE = "environment"
"""What stands in place of a file's name."""


def read_environment(environ: Mapping[str, str] = os.environ) -> Settings:
    """What the environment says; a variable that is empty counts as not set. Raises `ConfigError`.

    `BUD_ASGI_CONFIG` names a file, which then decides. Else there is one provider, of the kind that
    `BUD_ASGI_PROVIDER` names: `anthropic`, if it names none, by `ANTHROPIC_API_KEY` (and `ANTHROPIC_BASE_URL`);
    `bedrock` by `AWS_REGION`; `vertex` by `ANTHROPIC_VERTEX_PROJECT_ID` (and `CLOUD_ML_REGION`). `BUD_ASGI_KEYS` or
    `BUD_ASGI_ALLOW_ANONYMOUS=1` say who may call. `BUD_ASGI_ACCESS_LOG=1` turns the access log on, also where a file
    does not speak of it.
    """
    problems = Problems(SOURCE)
    access_log = _flag("BUD_ASGI_ACCESS_LOG", environ, problems)
    if file := environ.get("BUD_ASGI_CONFIG"):
        problems.raise_any()
        settings = read_file(file, environ=environ)
        said = access_log if settings.access_log is None else settings.access_log
        return msgspec.structs.replace(settings, access_log=said)
    provider = _provider(environ, problems)
    keys = _keys(environ, problems)
    _require_authentication(environ, problems)
    problems.raise_any()
    return Settings(
        source=SOURCE, providers=(provider,) if provider else (), keys=tuple(keys.values()), access_log=access_log
    )


def _flag(variable: str, environ: Mapping[str, str], problems: Problems) -> bool | None:
    value = environ.get(variable)
    if value not in {None, "", "0", "1"}:
        problems.mismatch(variable, shown(value), "1 or 0")
    return value == "1" if value else None


def _provider(environ: Mapping[str, str], problems: Problems) -> ConfiguredProvider | None:
    match environ.get("BUD_ASGI_PROVIDER") or "anthropic":
        case "anthropic":
            return _anthropic(environ, problems)
        case "bedrock":
            return _bedrock(environ, problems)
        case "vertex":
            return _vertex(environ, problems)
        case kind:
            problems.mismatch("BUD_ASGI_PROVIDER", shown(kind), KIND_WORDS)
            return None


def _anthropic(environ: Mapping[str, str], problems: Problems) -> Anthropic | None:
    key, base_url = environ.get("ANTHROPIC_API_KEY"), environ.get("ANTHROPIC_BASE_URL") or BASE_URL
    before = len(problems)
    api_key = secret_of(key, "ANTHROPIC_API_KEY", "its value", problems) if key else None
    if not key and base_url == BASE_URL:
        problems.add("ANTHROPIC_API_KEY", "not set, and neither is BUD_ASGI_CONFIG, which would name a file")
    if not re.search(BASE_URL_PATTERN, base_url):
        problems.mismatch("ANTHROPIC_BASE_URL", "a string that is not shown here", BASE_URL_WORDS)
    if len(problems) > before:
        return None
    try:
        return Anthropic(api_key=api_key, base_url=base_url)
    except ValueError as error:
        problems.add("ANTHROPIC_BASE_URL", str(error))
        return None


def _bedrock(environ: Mapping[str, str], problems: Problems) -> Bedrock | None:
    """In the region that AWS's own libraries would take; the credential is whatever AWS's chain finds."""
    variable = "AWS_REGION" if environ.get("AWS_REGION") else "AWS_DEFAULT_REGION"
    region = environ.get(variable)
    if not region:
        problems.mismatch("AWS_REGION", "nothing", AWS_REGION_WORDS)
        return None
    try:
        return Bedrock(region=region)
    except ValueError as error:
        problems.add(variable, str(error))
        return None


def _vertex(environ: Mapping[str, str], problems: Problems) -> Vertex | None:
    """In the project and location that the SDKs would take; Application Default Credentials."""
    project = environ.get("ANTHROPIC_VERTEX_PROJECT_ID")
    if not project:
        problems.mismatch("ANTHROPIC_VERTEX_PROJECT_ID", "nothing", PROJECT_WORDS)
        return None
    try:
        return Vertex(project=project, region=environ.get("CLOUD_ML_REGION") or "global")
    except ValueError as error:
        variable = "CLOUD_ML_REGION" if "location" in str(error) else "ANTHROPIC_VERTEX_PROJECT_ID"
        problems.add(variable, str(error))
        return None


def _keys(environ: Mapping[str, str], problems: Problems) -> dict[str, ApiKey]:
    """The keys by name, from `name=sha256:hex,...`."""
    keys: dict[str, ApiKey] = {}
    entries = [entry.strip() for entry in environ.get("BUD_ASGI_KEYS", "").split(",")]
    for place, entry in enumerate(filter(None, entries), start=1):
        name, _, hash_ = (part.strip() for part in entry.partition("="))
        if not name or not re.search(HASH_PATTERN, hash_):
            allowed = "NAME=sha256:HEX, with 64 lower-case hex digits, as `bud-asgi keys new NAME` shows it"
            problems.mismatch("BUD_ASGI_KEYS", f"entry {place}, which is not shown here", allowed)
        elif name in keys or hash_ in {key.hash for key in keys.values()}:
            problems.add("BUD_ASGI_KEYS", f"entry {place} has the name or the hash of an earlier one")
        else:
            keys[name] = ApiKey(name=name, hash=hash_)
    return keys


def _require_authentication(environ: Mapping[str, str], problems: Problems) -> None:
    anonymous = _flag("BUD_ASGI_ALLOW_ANONYMOUS", environ, problems)
    keys = environ.get("BUD_ASGI_KEYS", "").strip(" ,")
    if keys and anonymous:
        problems.add("BUD_ASGI_ALLOW_ANONYMOUS", "found 1 beside BUD_ASGI_KEYS; allowed is one of the two")
    elif not keys and not anonymous:
        problems.mismatch(
            "BUD_ASGI_KEYS", "nothing", "NAME=sha256:HEX,..., or BUD_ASGI_ALLOW_ANONYMOUS=1 to let everybody in"
        )
