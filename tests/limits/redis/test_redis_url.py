"""The options of `RedisStore`: which URLs are understood, and what is refused, without a password in any message."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from bud_asgi import Limit
from bud_asgi.limits import Limiter
from bud_asgi.limits.redis import RedisStore, StoreTiming
from bud_asgi.limits.redis.url import parse_url
from bud_asgi.options import OptionError
from bud_asgi.secret import Secret

WORD = "Hidden-Pass-word"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host", "redis://host:6379"),
        ("valkey://host:7000/3", "valkey://host:7000/3"),
        (f"redis://:{WORD}@host:6379/0", "redis://host:6379/0"),
        (f"rediss://user:{WORD}@host", "rediss://host:6379"),
        (f"valkeys://user:{WORD}@[::1]:7000/1", "valkeys://[::1]:7000/1"),
        (f"unix://user:{WORD}@/run/valkey.sock?db=2", "unix:///run/valkey.sock"),
        (f"redis+sentinel://:{WORD}@a:1,b/main/2", "redis+sentinel://a:1,b:26379/main/2"),
        (f"rediss+sentinel://a/main?sentinel_password={WORD}", "rediss+sentinel://a:26379/main"),
        (f"valkey+cluster://:{WORD}@a,b:7000", "valkey+cluster://a:6379,b:7000"),
    ],
)
def test_a_url_is_shown_without_its_credentials(url: str, shown: str) -> None:
    for given in (url, Secret(url)):
        store = RedisStore(given)
        assert repr(store) == f"RedisStore('{shown}')"
        target = parse_url(given)
        assert target.shown == shown
        assert WORD not in repr(target) + repr(target.login) + repr(target.sentinel_login)


def test_the_parts_of_a_url() -> None:
    target = parse_url("rediss+sentinel://us%40er:p%3A%23@a:1,b/main/2?sentinel_username=s&sentinel_password=x%2525")
    assert (target.kind, target.nodes, target.service, target.db) == ("sentinel", (("a", 1), ("b", 26379)), "main", 2)
    assert (target.login.username, target.login.password) == ("us@er", "p:#")
    assert (target.sentinel_login.username, target.sentinel_login.password) == ("s", "x%25")
    assert target.tls is not None
    assert parse_url("unix:///run/a%20b.sock?db=2").path == "/run/a b.sock"
    assert parse_url("redis://host?db=4").db == 4
    assert parse_url("redis://host").tls is None


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (None, "missing"),
        (6379, "not shown"),
        ("", "expected a URL"),
        (WORD, "expected a URL"),
        (f"http://:{WORD}@host", "expected a URL"),
        ("redis+sentinel://host", "name of the service"),
        ("redis://", "a host is missing"),
        ("redis://host:99999", "percent-encoded"),
        (f"redis://:{WORD}/x@host", "percent-encoded"),
        (f"redis://:{WORD}#x@host", "percent-encoded"),
        (f"redis://:{WORD}?x@host", "percent-encoded"),
        (f"redis://:x?{WORD}=1@host", "percent-encoded"),
        (f"redis+sentinel://user:1/{WORD}@host/main", "percent-encoded"),
        ("redis://a,b", "several hosts"),
        ("redis://host/one", "number of a database"),
        ("redis+cluster://host/1", "only the database 0"),
        ("rediss+cluster://host?ssl_password=x", "an unknown option"),
        ("redis://host?timeout=1", "an unknown option"),
        ("redis://host?ssl_ca_certs=/x", "need a rediss"),
        ("rediss://host?ssl_ca_certs=/missing", "FileNotFoundError"),
        ("rediss://host?ssl_cert_reqs=maybe", "its TLS options"),
        ("unix://host/run/x", "path of a socket"),
        ("unix://", "path of a socket"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_being_shown(url: Any, problem: str) -> None:
    with pytest.raises(OptionError, match=problem) as error:
        RedisStore(url)
    assert error.value.option == "url"
    assert WORD not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"on_failure": "ignore"}, "on_failure"),
        ({"replicas": 0, "on_failure": "local"}, "replicas"),
        ({"replicas": 2}, "replicas"),
        ({"prefix": ""}, "prefix"),
        ({"prefix": "a{b}"}, "prefix"),
        ({"lease": 0}, "lease"),
        ({"lease": "60"}, "lease"),
        ({"timing": 1.0}, "timing"),
        ({"clock": 1.0}, "clock"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any], option: str) -> None:
    with pytest.raises(OptionError) as error:
        RedisStore("redis://host", **options)
    assert error.value.option == option


def test_pauses_grow_up_to_the_longest() -> None:
    timing = StoreTiming(first_pause=0.1, longest_pause=5.0)
    assert [timing.pause(failures) for failures in range(5)] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert timing.pause(10_000) == 5.0
    with pytest.raises(OptionError):
        StoreTiming(silence=0.0)


NAMELESS: list[Any] = [lambda _: "a", partial(str, "a")]  # pyright: ignore[reportUnknownLambdaType]


@pytest.mark.parametrize("per", NAMELESS)
def test_a_function_without_a_name_cannot_name_the_buckets_of_a_shared_store(per: Any) -> None:
    limits = [Limit("requests", 5, per=per)]
    Limiter(limits)
    with pytest.raises(OptionError, match=r"^limits\[0\]\.per: a shared store names its buckets after the function"):
        Limiter(limits, RedisStore("redis://localhost"))
