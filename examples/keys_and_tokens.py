"""The Messages API for people with a login at an identity provider, and for services with API keys.

Run it in the repository's root, with the issuer of your identity provider and an API key of your choice:

    ANTHROPIC_API_KEY=sk-ant-... ISSUER_URL=https://... EXAMPLE_API_KEY=... uvicorn examples.keys_and_tokens:app

People send their access token as `ANTHROPIC_AUTH_TOKEN`, services their key as `ANTHROPIC_API_KEY`. The base URL is
http://127.0.0.1:8000.
"""

import os

from bud_asgi import Anthropic, ApiKey, ApiKeys, Limit, MessagesApp, Secret, hash_api_key
from bud_asgi.auth import FirstOf, Grant, Issuer, Jwt, Throttle

people = Issuer(
    url=os.environ["ISSUER_URL"],
    audience="bud",
    name="name",
    roles=["realm_access", "roles"],
    grants=[
        Grant(role="llm-admins"),
        Grant(role="llm-users", models=("claude-haiku-*",), limits=(Limit("requests", 3),)),
    ],
)
services = ApiKeys([ApiKey(name="nightly", hash=hash_api_key(os.environ["EXAMPLE_API_KEY"]))])

app = MessagesApp(
    auth=FirstOf([services, Jwt(people)], throttle=Throttle(failures=20, trusted_proxies=["10.0.0.0/8"])),
    providers=[
        Anthropic(
            api_key=Secret.from_env("ANTHROPIC_API_KEY"),
            base_url=os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
        )
    ],
    limits=[Limit("requests", 60)],
)
