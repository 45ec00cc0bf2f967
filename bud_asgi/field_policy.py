"""What an operator allows in requests: the fields and headers that change what is billed, or to whom."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import get_args

import msgspec

from bud_asgi.options import OptionError, check_choice, check_type, key_text, nearest, one_of
from bud_asgi.protocol.account_fields import ACCOUNT_FIELDS, Action, account_field, account_header
from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.fields import FIELDS
from bud_asgi.protocol.headers import Headers
from bud_asgi.protocol.request import MessagesRequest, edited

_EXPECTED = 'a mapping of fields to actions, such as {"speed": "refuse"}'
_OTHERS = frozenset(FIELDS.keys() - ACCOUNT_FIELDS.keys())

_decode_items = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode


class Found(msgspec.Struct, frozen=True, gc=False):
    """An account field in a request: its name in `ACCOUNT_FIELDS`, and the path or header as the client wrote it."""

    name: str
    field: str
    is_header: bool = False


class FieldPolicy:
    """An action for each of the fields in `ACCOUNT_FIELDS`: by default the one of that table.

    `actions` sets others: `forward`, `drop` (the response names the field in `bud-dropped`), or `refuse` (400). It
    applies to the field in the body, in the items of `fallbacks`, and as a header, at every provider. Raises
    `OptionError`.
    """

    def __init__(self, actions: Mapping[str, Action] | None = None, option: str = "field_policy") -> None:
        self._set = _checked(actions, option)
        chosen = {name: self._set.get(name, field.action) for name, field in ACCOUNT_FIELDS.items()}
        self._refused = frozenset(name for name, action in chosen.items() if action == "refuse")
        self._dropped = frozenset(name for name, action in chosen.items() if action == "drop")

    def check(self, request: MessagesRequest, headers: Collection[bytes]) -> tuple[Found, ...]:
        """Find the account fields of a request; `headers` are the names of its headers that are account fields.

        Raises `InvalidRequest`, naming the field, for one that is refused.
        """
        found = _in_body(request)
        if headers:
            found += [Found(name, line.decode("latin-1"), True) for line in headers if (name := account_header(line))]
        for each in found:
            if each.name in self._refused:
                raise InvalidRequest(f"{each.field}: Extra inputs are not permitted")
        return tuple(found)

    def dropped_for(self, allowed: Collection[str], *, client_pays: bool) -> frozenset[str]:
        """The fields to drop at one provider.

        `allowed` are those that the provider's own options let clients set, `client_pays` whether it is called with
        the client's credential. Both only replace defaults.
        """
        return frozenset(
            name
            for name in self._dropped
            if name in self._set or not (name in allowed or (client_pays and ACCOUNT_FIELDS[name].clients_own))
        )


def without_fields(
    request: MessagesRequest, headers: Headers, found: Collection[Found], dropped: frozenset[str]
) -> tuple[MessagesRequest, Headers, tuple[str, ...]]:
    """Leave out those of the `found` fields whose names are in `dropped`; also return these names."""
    removed = [each for each in found if each.name in dropped]
    lines = {each.field.encode("latin-1") for each in removed if each.is_header}
    if lines:
        headers = {name: value for name, value in headers.items() if name not in lines}
    if len(lines) < len(removed):
        without = {each.field for each in removed}
        request = edited(request, without=without, changed=_changed_fallbacks(request, dropped))
    return request, headers, tuple(dict.fromkeys(each.name for each in removed))


def _in_body(request: MessagesRequest) -> list[Found]:
    if _OTHERS.issuperset(request.spans):
        return []
    found = [Found(name, key) for key in request.spans if key not in _OTHERS and (name := account_field(key))]
    if "fallbacks" in request.spans:
        for n, item in enumerate(_fallbacks(request)):
            found += [Found(name, f"fallbacks.{n}.{key[:100]}") for key in item if (name := account_field(key))]
    return found


def _fallbacks(request: MessagesRequest) -> list[dict[str, msgspec.Raw]]:
    """The items of `fallbacks`, which are objects: reading has checked them."""
    value = request.value("fallbacks") or b"null"
    return _decode_items(value) if value.startswith(b"[") else []


def _changed_fallbacks(request: MessagesRequest, dropped: frozenset[str]) -> Mapping[str, bytes]:
    items = _fallbacks(request)
    kept = [{key: value for key, value in item.items() if account_field(key) not in dropped} for item in items]
    return {"fallbacks": msgspec.json.encode(kept)} if kept != items else {}


def _checked(actions: Mapping[str, Action] | None, option: str) -> Mapping[str, Action]:
    if actions is None:
        return {}
    check_type(option, actions, Mapping, _EXPECTED)
    for name, action in actions.items():
        path = f"{option}.{key_text(str(name))}"
        if name not in ACCOUNT_FIELDS:
            raise OptionError(
                path, f"unknown field{nearest(str(name), ACCOUNT_FIELDS)}; expected {one_of(ACCOUNT_FIELDS)}"
            )
        check_choice(path, action, get_args(Action))
    return dict(actions)
