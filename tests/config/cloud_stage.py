"""The clouds, and a machine that has credentials for them where their own tools look."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bud_asgi.testing import StandIn, ThreadedStandIn
from bud_asgi.testing.bedrock import Bedrock
from bud_asgi.testing.google import Google
from bud_asgi.testing.vertex import Vertex

DOCS = Path(__file__).parents[2] / "docs"
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_COUNTING = ("global", "us-east5")


class Clouds:
    """Where they are."""

    def __init__(self, bedrock: ThreadedStandIn, vertex: ThreadedStandIn) -> None:
        self.bedrock, self.vertex = bedrock, vertex

    def in_code(self, snippet: str, key_hash: str) -> str:
        """A snippet as it stands, but with the hash of a key that we have, the clouds that we have, and our project."""
        snippet = _HASH.sub(key_hash, snippet).replace("my-project", "bud-stand-in")
        snippet = re.sub(r"\bBedrock\((?=\S)", f'Bedrock(endpoint="{self.bedrock.base_url}", ', snippet)
        snippet = re.sub(r"\bBedrock\(\n", f'Bedrock(endpoint="{self.bedrock.base_url}",\n', snippet)
        return re.sub(r"\bVertex\(", f'Vertex(base_url="{self.vertex.base_url}", ', snippet)

    def in_file(self, snippet: str, key_hash: str) -> str:
        """The same of a file."""
        snippet = _HASH.sub(key_hash, snippet).replace("my-project", "bud-stand-in")
        snippet = snippet.replace('kind = "bedrock"', f'kind = "bedrock"\nendpoint = "{self.bedrock.base_url}"')
        return snippet.replace('kind = "vertex"', f'kind = "vertex"\nbase_url = "{self.vertex.base_url}"')


@contextmanager
def clouds(patch: pytest.MonkeyPatch, folder: Path) -> Generator[Clouds]:
    """Both, and Google's tokens. The working directory is `folder`, with a service account's key in `secrets`."""
    aws, google = Bedrock(profiles={PROFILE: "anthropic.claude-opus-4-8"}), Google()
    key = aws.keys.issue_temporary()
    vertex = Vertex(tokens=google.tokens, locations=_COUNTING)
    with (
        StandIn.of(aws).in_thread() as amazon,
        StandIn.of(google).in_thread() as tokens,
        StandIn.of(vertex).in_thread() as there,
    ):
        (folder / "secrets").mkdir()
        key_file = folder / "secrets" / "vertex.json"
        key_file.write_text(json.dumps(google.account.info(tokens.base_url)))
        (folder / "config").write_text(
            f"[profile work]\naws_access_key_id = {key.access_key}\naws_secret_access_key = {key.secret_key}\n"
        )
        for name in ("AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK"):
            patch.delenv(name, raising=False)
        for name, value in {
            "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
            "AWS_ACCESS_KEY_ID": key.access_key,
            "AWS_SECRET_ACCESS_KEY": key.secret_key,
            "AWS_SESSION_TOKEN": str(key.session_token),
            "GATEWAY_KEY_ID": key.access_key,
            "GATEWAY_SECRET": key.secret_key,
            "BEDROCK_API_KEY": "bedrock-api-key-stand-in",
            "GOOGLE_APPLICATION_CREDENTIALS": str(key_file),
        }.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        yield Clouds(amazon, there)


PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
"""The ARN that docs/bedrock.md shows."""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def rows(page: str, first: str) -> list[list[str]]:
    """The cells of the table whose head begins so."""
    (table,) = re.findall(rf"^\| {re.escape(first)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def in_ticks(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)
