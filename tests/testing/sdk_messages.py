"""Messages as Anthropic's SDK returns them, from `create` and from its stream helper."""

from typing import Any

from anthropic.types import Message


async def create_and_stream(client: Any, options: dict[str, Any]) -> tuple[Message, Message]:
    """Return what `create` returns, and the final message of the stream helper."""
    created: Message = await client.messages.create(**options)
    async with client.messages.stream(**options) as stream:
        return created, await stream.get_final_message()


def comparable(message: Message, *, tool_id_prefix: str) -> dict[str, Any]:
    """Return a Message without what differs between two of them, and without what only the stream helper adds."""
    dumped = message.model_dump(exclude={"id"}, exclude_none=True)
    for block in dumped["content"]:
        block.pop("parsed_output", None)
        block.pop("signature", None)
        if block["type"] == "tool_use":
            assert block.pop("id").startswith(tool_id_prefix)
    return dumped
