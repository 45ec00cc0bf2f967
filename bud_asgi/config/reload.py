"""Apply a changed configuration file to a running app."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bud_asgi.app import MessagesApp
from bud_asgi.config.changes import changes_between, is_same
from bud_asgi.config.settings import Settings, unfit


def settings_of(messages: MessagesApp) -> Settings:
    """The settings that an app was made from. Raises `TypeError` if they did not come from a file."""
    settings = messages.source
    if not isinstance(settings, Settings) or not settings.files:
        raise TypeError("the app was not made from a file: change it with messages.reload(...)")
    return settings


def reload_settings(messages: MessagesApp, settings: Settings) -> Sequence[str]:
    """Have an app that was made from a file serve these settings, and return the changes in words.

    Without a change nothing happens. Providers and stores whose tables are the same stay the same objects, with their
    connections and credentials. Raises `ConfigError`, and `TypeError` for an app that was not made from a file; then
    nothing has changed.
    """
    former = settings_of(messages)
    changes = changes_between(former, settings)
    if not changes:
        return changes
    kept = _keep_parts(former, settings)
    try:
        messages.reload(**kept.options())
    except ValueError as error:
        raise unfit(settings, error) from error
    messages.source = kept
    return changes


def _keep_parts(former: Settings, new: Settings) -> Settings:
    """The new settings, with the previous objects where their tables are unchanged."""

    def is_kept(*path: str) -> bool:
        return path in former.tables and is_same(former.tables[path], new.tables.get(path))

    providers = {one.name: one for one in former.providers if is_kept("providers", one.name)}
    return msgspec.structs.replace(
        new,
        providers=tuple(providers.get(one.name, one) for one in new.providers),
        store=former.store if is_kept("store") else new.store,
        key_store=former.key_store if is_kept("key_store") else new.key_store,
    )
