"""Claude on Amazon Bedrock: InvokeModel and its event stream, AWS's credentials and signatures."""

from bud_asgi.providers.bedrock.credential import AwsCredential
from bud_asgi.providers.bedrock.provider import Bedrock

__all__ = ["AwsCredential", "Bedrock"]
