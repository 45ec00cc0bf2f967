"""What a bending proxy knows of the API: a list that was whole when somebody wrote it."""

FIELDS = frozenset(
    (
        "model",
        "messages",
        "max_tokens",
        "system",
        "stream",
        "stop_sequences",
        "metadata",
        "tools",
        "tool_choice",
        "temperature",
        "top_p",
        "top_k",
        "thinking",
    )
)
BLOCKS = frozenset(("text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"))
BETAS = frozenset(
    (
        b"claude-code-20250219",
        b"interleaved-thinking-2025-05-14",
        b"context-management-2025-06-27",
        b"effort-2025-11-24",
    )
)
HEADERS = frozenset((b"anthropic-version", b"anthropic-beta", b"anthropic-dangerous-direct-browser-access"))
