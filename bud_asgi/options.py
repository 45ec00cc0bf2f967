"""Option checks for constructors: the error they raise, and the functions that raise it."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import TypeVar, cast

T = TypeVar("T")

_CREDENTIAL = re.compile(
    r"(?i:(?<![a-z0-9])(?:sk|pk|rk)[-_](?=[a-z0-9])|sha256:|bearer |basic )"
    r"|ABSK|A[KS]IA[0-9A-Z]|AIza|ya29\.|GOCSPX-|eyJ|gh[oprsu]_|github_pat_|glpat-|hf_|xox[a-z]-|bedrock-api-key-"
    r"|-----BEGIN|(?<![A-Za-z0-9])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|(?=[A-Za-z0-9+=_-]*[0-9])(?=[A-Za-z0-9+=_-]*[a-z])(?=[A-Za-z0-9+=_-]*[A-Z])[A-Za-z0-9+=_-]{20}"
    r"|[A-Za-z0-9+=]{32}"
)
"""The usual forms of keys and tokens, and long runs of random letters and digits."""

_SECRET = re.compile(rf"{_CREDENTIAL.pattern}|[A-Za-z0-9+/=_-]{{32}}")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PATH_LIKE = re.compile(r"[a-z_-]+|.*[./].*")
_OPTION_PART = re.compile(r'\[(\d+)\]|("(?:[^"\\]|\\.)*")|([^.\[\]"]+)')
_LONGEST_SHOWN = 60
_ABOVE_ZERO = 5e-324
_TYPES: dict[type, str] = {list: "list", tuple: "tuple", dict: "dict"}


class OptionError(ValueError):
    """An option is missing, invalid, or contradicts another one.

    `option` is the argument's name, with a path into it where that helps (`to[1].model`). `problem` states what is
    wrong and what is allowed; it never contains a value that could be a secret. `other` names the option that this one
    needs or cannot be combined with. The reader of the configuration file turns `option` into a file name, key path
    and line.
    """

    def __init__(self, option: str, problem: str, *, other: str | None = None) -> None:
        super().__init__(f"{option}: {problem}")
        self.option = option
        self.problem = problem
        self.other = other


def mismatch(option: str, expected: str, value: object, *, hide: bool = False) -> OptionError:
    """Make the error for a missing (`None`) or wrong value. With `hide` the value is never shown."""
    if value is None:
        return OptionError(option, f"missing; expected {expected}")
    return OptionError(option, f"expected {expected}, got {'a value that is not shown' if hide else shown(value)}")


def check_text(
    option: str, value: object, expected: str, form: re.Pattern[str] | None = None, *, hide: bool = False
) -> None:
    """Check for a string that is not empty and, if there is a `form`, matches all of it."""
    if not isinstance(value, str) or not value or (form is not None and not form.fullmatch(value)):
        raise mismatch(option, expected, value, hide=hide)
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise OptionError(option, "must not contain half of a surrogate pair: it cannot be encoded as UTF-8")


def check_name(option: str, value: object) -> None:
    """Check for a string that is not empty."""
    check_text(option, value, "a string that is not empty")


def check_choice(option: str, value: object, choices: Sequence[str]) -> None:
    """Check for one of the given strings."""
    if not isinstance(value, str) or value not in choices:
        error = mismatch(option, one_of(choices), value)
        raise OptionError(option, error.problem + (nearest(value, choices) if isinstance(value, str) else ""))


def check_flag(option: str, value: object) -> None:
    """Check for a bool: nothing else counts as true or false."""
    if not isinstance(value, bool):
        raise mismatch(option, "true or false", value)


def check_integer(option: str, value: object, expected: str, *, minimum: int = 1, maximum: int = 1 << 53) -> None:
    """Check for an int in the given range. A bool is not a number."""
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise mismatch(option, expected, value)


def check_seconds(option: str, value: object, *, maximum: float = inf, zero: bool = False) -> None:
    """Check for a number above 0, and up to `maximum`. A bool is not a number. With `zero`, 0 is allowed too."""
    least = 0.0 if zero else _ABOVE_ZERO
    if isinstance(value, int | float) and value > maximum:
        raise mismatch(option, f"a number of seconds, at most {maximum:g}", value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= maximum:  # false for NaN
        raise mismatch(option, f"a number of seconds, {'at least' if zero else 'more than'} 0", value)


def check_type(option: str, value: object, kind: type, expected: str) -> None:
    """Check for an instance of a class."""
    if not isinstance(value, kind):
        raise mismatch(option, expected, value)


def check_function(option: str, value: object, expected: str, *arguments: object) -> None:
    """Check for a function, or another callable object, that can be called with these arguments."""
    if not callable(value):
        raise mismatch(option, expected, value)
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # some of those written in C have none
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise mismatch(option, expected, value) from None


def check_clock(option: str, value: object) -> None:
    """Check for a clock: a function that returns seconds, and no class."""
    expected = "a function without arguments that returns seconds"
    if isinstance(value, type):
        raise mismatch(option, expected, value)
    check_function(option, value, expected)


def check_methods(option: str, value: object, expected: str, methods: Iterable[str]) -> None:
    """Check for an object with these methods, of whatever type: not for a class of such objects."""
    if isinstance(value, type) or not all(callable(getattr(value, name, None)) for name in methods):
        raise mismatch(option, expected, value)


def check_items(option: str, value: Sequence[T], expected: str, check: Callable[[str, T], None]) -> tuple[T, ...]:
    """Check for a list or another sequence, and each item by `check`, which gets its name; return it as a tuple.

    A string, a mapping and an iterator are no lists: an iterator can be read only once.
    """
    given = cast("object", value)
    if isinstance(given, str | bytes | bytearray) or not isinstance(given, Sequence):
        raise mismatch(option, expected, given)
    items = tuple(value)
    for index, item in enumerate(items):
        check(f"{option}[{index}]", item)
    return items


def check_texts(option: str, value: object, expected: str, form: re.Pattern[str] | None = None) -> tuple[str, ...]:
    """Check for a collection of strings, each of which matches `form`, and return it as a tuple.

    A single string is not one: read letter by letter, `"*"` or `"claude-*"` would allow everything.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Collection):
        raise mismatch(option, expected, cast("object", value))
    items: list[str] = []
    for item in cast("Collection[object]", value):
        if not isinstance(item, str) or (form is not None and not form.fullmatch(item)):
            raise OptionError(option, f"expected {expected}, got {shown(item)} in it")
        items.append(item)
    return tuple(items)


def duplicates(values: Iterable[object]) -> Iterator[tuple[int, int]]:
    """Yield the index of each value that occurred before, and the index where it first did."""
    first: dict[object, int] = {}
    for index, value in enumerate(values):
        if first.setdefault(value, index) != index:
            yield index, first[value]


def shown(value: object) -> str:
    """Describe a value: short strings and numbers as they are, secrets and everything else by kind."""
    if isinstance(value, str):
        hide = len(value) > _LONGEST_SHOWN or looks_secret(value)
        return f"a string of {len(value)} characters (not shown)" if hide else json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    if value is None or isinstance(value, int | float):
        return repr(value)
    if name := _TYPES.get(type(value)):
        return f"a {name}" if value else f"an empty {name}"
    if isinstance(value, type) or inspect.isroutine(value):
        return f"the {'class' if isinstance(value, type) else 'function'} {value.__name__}"
    return f"an object of type {type(value).__name__}"


def key_text(key: str) -> str:
    """Write a key as in a TOML key path, in quotes where that is needed."""
    return key if _BARE_KEY.fullmatch(key) else json.dumps(key)


def option_path(option: str) -> tuple[str | int, ...]:
    """Split the name of an option: `to[1].model` into `("to", 1, "model")`."""
    return tuple(
        int(index) if index else json.loads(quoted) if quoted else bare
        for index, quoted, bare in _OPTION_PART.findall(option)
    )


def looks_secret(text: str) -> bool:
    """Whether a text could be a key, a token or a hash."""
    return _SECRET.search(text) is not None


def name_shown(name: str) -> str:
    """A valid name as it may be shown: one with the form of a key or token is not. Allows more than `looks_secret`."""
    return "(not shown)" if _CREDENTIAL.search(name) else name


def url_shown(url: str) -> str:
    """A URL as it may be shown: some proxies take a key as a part of the path."""
    scheme_and_host, path = url.split("/")[:3], url.split("/")[3:]
    return "/".join([*scheme_and_host, *map(name_shown, path)])


def path_shown(path: str) -> str:
    """The path of a file as it may be shown: what stands there may be a secret that was pasted."""
    absolute = path.startswith(("/", ".", "~"))
    parts = path.split("/") if absolute else [*path.split("/"), path.replace("/", "")]  # base64 has slashes too
    pasted = any(map(_CREDENTIAL.search, parts)) or (not absolute and any(map(looks_secret, parts[:-1])))
    hide = pasted or not _PATH_LIKE.fullmatch(path)
    return "the file, whose name looks like a secret and is not shown" if hide else path


def one_of(choices: Iterable[str]) -> str:
    """List the choices: `"a", "b" or "c"`."""
    *most, last = (f'"{name_shown(choice)}"' for choice in choices)
    return f"{', '.join(most)} or {last}" if most else last


def nearest(name: str, known: Iterable[str]) -> str:
    """Ask `(did you mean "x"?)` for the known name that is closest; empty if none is close."""
    close = difflib.get_close_matches(name, [other for other in known if not looks_secret(other)], 1)
    return f' (did you mean "{close[0]}"?)' if close else ""
