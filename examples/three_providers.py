"""One endpoint for Anthropic, Amazon Bedrock and Vertex AI: the model name selects the provider.

The cloud credentials come from the usual places: AWS's credential chain and Google's Application Default Credentials.
Run it in the repository's root, with an API key of your choice for the client:

    export ANTHROPIC_API_KEY=sk-ant-... AWS_REGION=us-east-1 ANTHROPIC_VERTEX_PROJECT_ID=...
    EXAMPLE_API_KEY=... uvicorn examples.three_providers:app

Clients use the base URL http://127.0.0.1:8000.
"""

import os

from bud_asgi import Anthropic, ApiKeys, Bedrock, MessagesApp, Route, Secret, Target, Vertex, hash_api_key

app = MessagesApp(
    # In production, store only the hash: ApiKeys({"ci": "sha256:..."}).
    auth=ApiKeys({"ci": hash_api_key(os.environ["EXAMPLE_API_KEY"])}),
    providers=[
        Anthropic(
            api_key=Secret.from_env("ANTHROPIC_API_KEY"),
            base_url=os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
        ),
        Bedrock(
            region=os.environ["AWS_REGION"],
            endpoint=os.environ.get("AWS_ENDPOINT_URL_BEDROCK_RUNTIME"),
        ),
        Vertex(
            project=os.environ["ANTHROPIC_VERTEX_PROJECT_ID"],
            base_url=os.environ.get("ANTHROPIC_VERTEX_BASE_URL"),
        ),
    ],
    routes=[
        Route("claude-team", to=[Target("vertex", "claude-sonnet-4-6")]),  # your own name for a model
        Route("claude-opus-*", to=["bedrock"]),  # the cloud's model ID is derived from the client's
        Route("claude-haiku-*", to=["vertex"]),
        Route("claude-*", to=["anthropic", "bedrock"]),  # Bedrock if Anthropic is unreachable
    ],
)
