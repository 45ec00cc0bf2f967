"""Anthropic's own service: its checks, its default replies, and the format of its Messages."""

from bud_asgi.testing.anthropic.messages import Content, TextBlock, ThinkingBlock, ToolUseBlock, Usage
from bud_asgi.testing.anthropic.models import Model, model

__all__ = ["Content", "Model", "TextBlock", "ThinkingBlock", "ToolUseBlock", "Usage", "model"]
