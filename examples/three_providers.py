"""One endpoint before Anthropic, Amazon Bedrock and Vertex AI: the name of the model says who is asked.

The clouds find their credentials where their own tools do: AWS's chain, Google's Application Default Credentials.

ANTHROPIC_API_KEY=... AWS_REGION=us-east-1 ANTHROPIC_VERTEX_PROJECT_ID=... uvicorn examples.three_providers:app
"""

import os

from bud_asgi import Anthropic, ApiKeys, Bedrock, MessagesApp, Route, Secret, Target, Vertex, hash_api_key

app = MessagesApp(
    # In earnest, keep the hash alone in your configuration: ApiKeys({"ci": "sha256:..."}).
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
        Route("claude-team", to=[Target("vertex", "claude-sonnet-4-6")]),  # a name of your own
        Route("claude-opus-*", to=["bedrock"]),  # as the client wrote it: each cloud has its own id for it
        Route("claude-haiku-*", to=["vertex"]),
        Route("claude-*", to=["anthropic", "bedrock"]),  # Bedrock where Anthropic can't be reached
    ],
)
