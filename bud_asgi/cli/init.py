"""`init`: a first configuration file, for the providers whose credentials are found."""

from __future__ import annotations

import configparser
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from bud_asgi.auth import hash_api_key, new_api_key
from bud_asgi.cli.keys import key_table
from bud_asgi.extras import install_command
from bud_asgi.options import OptionError, looks_secret
from bud_asgi.providers.anthropic import Anthropic

CALLER = "default"
"""The name of the first key."""

_AWS_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_NAME = re.compile(r"[a-z][a-z0-9:.-]{1,62}")
_BEDROCK_TOKEN = "AWS_BEARER_TOKEN_BEDROCK"  # noqa: S105 - the name of a variable

_HEAD = """\
# The configuration of a bud_asgi gateway.
# `bud-asgi check {file}` checks it, `bud-asgi serve {file}` serves it.
# Secrets are references: env:NAME is an environment variable, file:PATH a file.
"""
_ROUTES = """
# Which model goes where. A list is tried in order: the next provider is used if one fails.
"""
_ROUTES_EXAMPLE = """
# Without routes every model goes to the one provider. A route gives a model another name, for example:
#
# [[routes]]
# model = "fast"
# to = [{{ provider = "{provider}", model = "claude-haiku-5-5" }}]
#
# [[routes]]
# model = "claude-*"
# to = ["{provider}"]
"""
_KEYS = """
# The callers. Only hashes of their keys are stored: `bud-asgi keys new NAME >> {file}` adds one.
"""
_LIMITS = """
# How much each caller may use, for example:
#
# [[limits]]
# requests = 60
# window = "1m"
#
# [[limits]]
# output_tokens = 100_000
# window = "1h"
"""


class FoundProvider(msgspec.Struct, frozen=True):
    """A provider for which there is a credential: where it was found, and the keys of its table.

    `missing` is what it needs that is not there; such a provider is written as a comment.
    """

    name: str
    source: str
    keys: Mapping[str, str]
    missing: str | None = None


class NewFile(msgspec.Struct, frozen=True):
    """A file to be written, the providers in it, and the key of its first caller."""

    text: str
    providers: tuple[FoundProvider, ...]
    key: str


def new_file(file: str, environ: Mapping[str, str], home: Path) -> NewFile:
    """Make the file for the credentials that are in the environment and in the home folder. No secret gets into it."""
    found = [one for one in (_anthropic(environ), _bedrock(environ, home), _vertex(environ, home)) if one is not None]
    usable = [one for one in found if one.missing is None]
    if not usable:
        missing = "set ANTHROPIC_API_KEY"
        usable = [
            FoundProvider("anthropic", missing, {"kind": "anthropic", "api_key": "env:ANTHROPIC_API_KEY"}, missing)
        ]
    names = [one.name for one in usable]
    commented = [one for one in found if one.missing is not None]
    key = new_api_key()
    text = "".join(
        [
            _HEAD.format(file=file),
            *(f"\n# {one.source}\n{_table(one)}" for one in usable),
            *(f"\n# {one.source}. To use it: {one.missing}.\n#\n{_as_comment(_table(one))}" for one in commented),
            f'{_ROUTES}[[routes]]\nmodel = "claude-*"\nto = {json.dumps(names)}\n'
            if len(names) > 1
            else _ROUTES_EXAMPLE.format(provider=names[0]),
            f"{_KEYS.format(file=file)}{key_table(CALLER, hash_api_key(key))}\n",
            _LIMITS,
        ]
    )
    return NewFile(text, (*usable, *commented), key)


def write_file(file: Path, text: str, *, force: bool) -> None:
    """Write a file that only its owner can change. Raises `FileExistsError` unless `force`, and `OSError`."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    with os.fdopen(os.open(file, flags, 0o644), "w", encoding="utf-8") as opened:
        opened.write(text)


def _table(provider: FoundProvider) -> str:
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in provider.keys.items()]
    return "\n".join([f"[providers.{provider.name}]", *lines, ""])


def _as_comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in text.splitlines())


def _first(environ: Mapping[str, str], *names: str) -> str | None:
    """The first of these variables that is set."""
    return next((name for name in names if environ.get(name)), None)


def _anthropic(environ: Mapping[str, str]) -> FoundProvider | None:
    variable = _first(environ, "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
    if variable is None:
        return None
    keys = {"kind": "anthropic", "api_key": f"env:{variable}"}
    if variable == "ANTHROPIC_AUTH_TOKEN":
        keys["auth"] = "bearer"
    if base_url := environ.get("ANTHROPIC_BASE_URL"):
        if not _is_plain_url(base_url):
            return FoundProvider("anthropic", f"{variable} is set", keys, "set its base_url to ANTHROPIC_BASE_URL")
        keys["base_url"] = base_url
    return FoundProvider("anthropic", f"{variable} is set", keys)


def _plain(value: str | None) -> str | None:
    """A name of a region or project; `None` for what is something else."""
    return value if value and _NAME.fullmatch(value) and not looks_secret(value) else None


def _is_plain_url(url: str) -> bool:
    """Whether a URL is valid, and nothing in it could be a secret."""
    try:
        Anthropic(base_url=url, auth="client")
    except OptionError:
        return False
    return not any(map(looks_secret, urlsplit(url).path.split("/")))


def _bedrock(environ: Mapping[str, str], home: Path) -> FoundProvider | None:
    variable = _first(environ, _BEDROCK_TOKEN, *_AWS_VARIABLES)
    config = _ini(Path(environ.get("AWS_CONFIG_FILE") or home / ".aws" / "config"))
    shared = Path(environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / ".aws" / "credentials")
    if variable is None and not shared.is_file() and not config.sections():
        return None
    source = f"{variable} is set" if variable else f"AWS credentials are in {_in_home(shared.parent, home)}"
    profile = environ.get("AWS_PROFILE") or "default"
    section = profile if profile == "default" else f"profile {profile}"
    region_variable = _first(environ, "AWS_REGION", "AWS_DEFAULT_REGION")
    region = _plain(environ[region_variable] if region_variable else config.get(section, "region", fallback=None))
    keys = {"kind": "bedrock", "region": region or "us-east-1"}
    if variable != _BEDROCK_TOKEN and find_spec("botocore") is None:
        return FoundProvider("bedrock", source, keys, install_command("bedrock"))
    return FoundProvider("bedrock", source if region else f"{source}; no region was found: check it", keys)


def _ini(file: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    try:
        parser.read(file, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError):
        return configparser.RawConfigParser()
    return parser


def _vertex(environ: Mapping[str, str], home: Path) -> FoundProvider | None:
    given = environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    folder = Path(environ.get("CLOUDSDK_CONFIG") or home / ".config" / "gcloud")
    file = Path(given) if given else folder / "application_default_credentials.json"
    if not file.is_file():
        return None
    source = "GOOGLE_APPLICATION_CREDENTIALS is set" if given else f"Google credentials are in {_in_home(file, home)}"
    variable = _first(environ, "ANTHROPIC_VERTEX_PROJECT_ID", "GOOGLE_CLOUD_PROJECT")
    project = _plain(environ[variable] if variable else next(_projects(file), None))
    region = _plain(environ.get("CLOUD_ML_REGION")) or "global"
    keys = {"kind": "vertex", "project": project or "my-project", "region": region}
    missing = None if project else "set its project, none was found"
    if find_spec("google") is None or find_spec("google.auth") is None:
        missing = install_command("vertex")
    return FoundProvider("vertex", source, keys, missing)


class _GoogleCredentials(msgspec.Struct, frozen=True):
    project_id: str = ""
    quota_project_id: str = ""


def _projects(file: Path) -> Iterator[str]:
    try:
        found = msgspec.json.decode(file.read_bytes(), type=_GoogleCredentials)
    except (msgspec.DecodeError, UnicodeDecodeError, OSError):
        return
    yield from filter(None, (found.project_id, found.quota_project_id))


def _in_home(path: Path, home: Path) -> str:
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def next_steps(file: str, new: NewFile) -> Sequence[str]:
    """Return what to do with a new file, one sentence each."""
    found = [f"{one.name}: {one.source}" for one in new.providers if one.missing is None]
    missing = [f"{one.name}: {one.missing}" for one in new.providers if one.missing is not None]
    return [
        f"{file} is written.",
        *(f"Found {one}." for one in found),
        *(f"To do for {one}." for one in missing),
        f"Next: bud-asgi check --live {file}, then bud-asgi serve {file}.",
        f"The key above is for the caller {CALLER!r}. It is not shown again; the file has only its hash.",
    ]
