"""A stand-in for Claude on Amazon Bedrock: signatures, contract and errors as AWS has them."""

from bud_asgi.testing.bedrock.service import Bedrock

__all__ = ["Bedrock"]
