"""With no extra installed: an Anthropic app works, and the rest names the command that installs what it needs."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

REFUSE = """
import sys

EXTRAS = {"aiobotocore", "aiohttp", "anthropic", "boto3", "botocore", "click", "cryptography", "google", "hiredis",
          "httpx", "httpx2", "joserfc", "prometheus_client", "psycopg", "redis", "requests", "trustme",
          "urllib3", "uvicorn", "uvloop"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def run(program: str) -> str:
    """Run a program for which none of the extras can be imported; return what it prints."""
    code = REFUSE + textwrap.dedent(program)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_an_app_over_anthropic_serves_requests() -> None:
    printed = run(
        """
        import asyncio, json
        from bud_asgi import Anonymous, Anthropic, MessagesApp
        from bud_asgi.testing import StandIn

        async def post(app, path, body):
            events, sent = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}], []

            async def receive():
                return events.pop(0) if events else await asyncio.Event().wait()

            async def send(message):
                sent.append(message)

            scope = {
                "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
                "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
                "headers": [
                    (b"host", b"h"), (b"content-type", b"application/json"), (b"anthropic-version", b"2023-06-01")
                ],
                "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
            }
            await app(scope, receive, send)
            return sent[0]["status"], json.loads(b"".join(part.get("body", b"") for part in sent[1:]))

        async def main():
            with StandIn(api_key="sk-ant-x").in_thread() as stand_in:
                provider = Anthropic(api_key="sk-ant-x", base_url=stand_in.base_url)
                app = MessagesApp(auth=Anonymous(), providers=[provider])
                body = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
                status, message = await post(app, "/v1/messages", body)
                await app.drain(1)
                print(status, message["type"])

        asyncio.run(main())
        """
    )
    assert printed == "200 message"


def needs(feature: str, module: str, extra: str) -> str:
    return f"{feature} needs {module}, which is not installed: pip install '.[{extra}]' in a checkout of bud_asgi"


def test_a_file_names_the_extra_that_its_provider_needs() -> None:
    printed = run(
        """
        import os, tempfile
        os.environ.pop("AWS_BEARER_TOKEN_BEDROCK", None)
        from bud_asgi import ConfigError, from_file
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write('allow_anonymous = true\\n[providers.b]\\nkind = "bedrock"\\nregion = "us-east-1"\\n')
            file.flush()
            try:
                from_file(file.name)
            except ConfigError as error:
                print(error.problems[0].path, error.problems[0].message)
        """
    )
    assert printed.startswith("providers.b")
    assert needs("Bedrock", "botocore", "bedrock") in printed


NEEDS = {
    "Bedrock(region='us-east-1')": needs("Bedrock", "botocore", "bedrock"),
    "Bedrock(region='us-east-1', role_arn='arn:aws:iam::123456789012:role/r', access_key='a', secret_key='s')": needs(
        "Bedrock", "botocore", "bedrock"
    ),
    "Vertex(project='p')": needs("Vertex", "google.auth", "vertex"),
    "Jwt(Issuer(url='https://a.example', audience='a'))": needs("Jwt", "joserfc", "jwt"),
    "MessagesApp(auth=Anonymous(), providers=[Anthropic(api_key='x')]).metrics()": needs(
        "MessagesApp.metrics()", "prometheus_client", "prometheus"
    ),
    "RedisStore('redis://localhost')": needs("RedisStore", "redis", "redis"),
    "SqlKeyStore('postgresql://localhost/keys')": needs("A key store in PostgreSQL", "psycopg", "postgres"),
}


def test_what_needs_an_extra_names_the_command_that_installs_it() -> None:
    printed = run(
        f"""
        import json, os
        os.environ.pop("AWS_BEARER_TOKEN_BEDROCK", None)
        from bud_asgi import Anonymous, Anthropic, Bedrock, MessagesApp, Vertex
        from bud_asgi.auth import Issuer, Jwt
        from bud_asgi.auth import SqlKeyStore
        from bud_asgi.limits.redis import RedisStore
        found = {{}}
        for build in {list(NEEDS)!r}:
            try:
                eval(build)
            except ImportError as error:
                found[build] = str(error)
        print(json.dumps(found))
        """
    )
    assert json.loads(printed) == NEEDS


def test_the_stand_ins_for_google_name_the_command_that_installs_what_they_need() -> None:
    printed = run(
        """
        try:
            import bud_asgi.testing.vertex
        except ModuleNotFoundError as error:
            print(error)
        """
    )
    command = "pip install '.[testing]' in a checkout of bud_asgi"
    assert printed == f"the stand-ins for Google need cryptography: {command}"


def test_bedrock_with_a_bearer_token_fixed_keys_or_an_object_of_the_host_needs_no_extra() -> None:
    printed = run(
        """
        import asyncio
        from bud_asgi import Bedrock
        from bud_asgi.http import HttpRequest, Origin

        class Frozen:
            access_key, secret_key, token = "AKIDHOST", "secret", None

        class Host:
            def get_frozen_credentials(self):
                return Frozen()

        for options in (
            {"bearer_token": "t"}, {"access_key": "AKIDFIXED", "secret_key": "s"}, {"credentials": Host()}
        ):
            credential = Bedrock(region="us-east-1", **options).credential
            signed = asyncio.run(credential.apply(HttpRequest(Origin("h", 80), b"POST", b"/", ()), {}))
            print(dict(signed.headers)[b"authorization"].decode().partition("/")[0])
        """
    )
    assert printed.splitlines() == [
        "Bearer t",
        "AWS4-HMAC-SHA256 Credential=AKIDFIXED",
        "AWS4-HMAC-SHA256 Credential=AKIDHOST",
    ]


def test_the_command_line_names_the_command_that_installs_it() -> None:
    printed = run(
        """
        import sys
        from bud_asgi.cli import main
        sys.stderr = sys.stdout
        try:
            main()
        except SystemExit as stopped:
            print(stopped.code)
        """
    )
    assert printed == "error: bud-asgi needs click: pip install '.[server]' in a checkout of bud_asgi\n2"
