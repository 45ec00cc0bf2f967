"""Our signatures equal those of botocore's own signer, byte for byte."""

from __future__ import annotations

import hashlib
import ssl
import string
import time
from typing import Any, cast

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.http import Header, HttpRequest, Origin
from bud_asgi.providers.bedrock.sigv4 import Keys, Signer, payload_hash
from bud_asgi.secret import Secret

ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"
TLS = ssl.create_default_context()
SIGNED = ("content-type", "x-amz", "x-amz-%b", "x-amzn-bedrock-trace", "x-amzn-bedrock-requestmetadata")
LEFT_OUT = ("user-agent", "accept", "accept-encoding", "x-amzn-trace-id", "traceparent", "anthropic-version")

_visible = st.text(st.sampled_from("".join(chr(code) for code in range(0x21, 0x7F))), min_size=1, max_size=60)
_segments = st.one_of(
    st.sampled_from(["", ".", "..", "model", "invoke", "a%2Fb", ARN, ARN.replace(":", "%3A").replace("/", "%2F")]),
    st.text(st.sampled_from(string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@%[]|^\\\""), max_size=20),
)
_paths = st.lists(_segments, max_size=6).map(lambda segments: "/" + "/".join(segments))
_queries = st.text(st.sampled_from(string.ascii_letters + "=&%?/+~."), max_size=30).map(lambda query: "?" + query)
_targets = st.builds(str.__add__, _paths, st.one_of(st.just(""), _queries))
_values = st.one_of(
    st.text(st.sampled_from(string.printable[:95] + "\t"), max_size=40),
    st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), max_size=20),
)
_headers = st.lists(st.tuples(st.sampled_from(SIGNED), _values), max_size=6)
_times = st.integers(0, 4102444800).map(lambda second: time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second)))


def keys(access: str = "AKIDEXAMPLE", secret: str = "wJalrXUtnFEMI/K7MDENG", token: str | None = None) -> Keys:
    return Keys(Secret(access), Secret(secret), Secret(token) if token else None)


def by_botocore(
    signer: tuple[Keys, str, str], method: str, url: str, headers: list[tuple[str, str]], body: bytes, when: str
) -> dict[str, str]:
    """What botocore adds to the request."""
    given_keys, service, region = signer
    token = given_keys.session_token.reveal() if given_keys.session_token else None
    credentials = Credentials(given_keys.access_key.reveal(), given_keys.secret_key.reveal(), token)
    request = AWSRequest(method=method, url=url, data=body)
    for name, value in headers:
        request.headers.add_header(name, value)
    auth = cast("Any", SigV4Auth(credentials, service, region))
    request.context["timestamp"] = when
    auth._modify_request_before_signing(request)
    to_sign = auth.string_to_sign(request, auth.canonical_request(request))
    auth._inject_signature_to_request(request, auth.signature(to_sign, request))
    names = {"authorization", "x-amz-date", "x-amz-security-token"}
    return {name.lower(): value for name, value in request.headers.items() if name.lower() in names}


@given(
    access=_visible,
    secret=_visible,
    token=st.none() | _visible,
    service=st.sampled_from(["bedrock", "bedrock-mantle", "aws-external-anthropic", "sts"]),
    region=st.sampled_from(["us-east-1", "eusc-de-east-1"]),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    target=_targets,
    headers=_headers,
    body=st.binary(max_size=100),
    when=_times,
    place=st.sampled_from([("bedrock.test", 443, TLS), ("127.0.0.1", 8080, None), ("::1", 80, None), ("h", 443, None)]),
)
@examples(50, 2_000)
def test_any_request_is_signed_as_botocore_signs_it(
    access: str,
    secret: str,
    token: str | None,
    service: str,
    region: str,
    method: str,
    target: str,
    headers: list[tuple[str, str]],
    body: bytes,
    when: str,
    place: tuple[str, int, ssl.SSLContext | None],
) -> None:
    origin = Origin(*place)
    own = keys(access, secret, token)
    ours: list[Header] = [(name.encode(), value.encode()) for name, value in headers]
    others: list[Header] = [(name.encode(), b"whatever") for name in LEFT_OUT]
    request = HttpRequest(origin, method.encode(), target.encode(), [*others, *ours], body)
    added = Signer(own, service, region).sign(request, payload_hash(body), when.encode())

    url = f"{'https' if origin.tls else 'http'}://{origin.authority.decode()}{target}"
    expected = by_botocore((own, service, region), method, url, headers, body, when)
    assert {name.decode(): value.decode() for name, value in added} == expected


def test_what_is_remembered_of_a_request_does_not_depend_on_the_keys() -> None:
    request = HttpRequest(Origin("h", 80), b"POST", b"/model/a%2Fb/invoke", [(b"x-amz-a", b"50%")], b"{}")
    when = "20150830T123600Z"
    for own in (keys(), keys(token="one"), keys("AKIDOTHER", token="other"), keys()):
        added = Signer(own, "bedrock", "us-east-1").sign(request, payload_hash(b"{}"), when.encode())
        expected = by_botocore(
            (own, "bedrock", "us-east-1"), "POST", "http://h/model/a%2Fb/invoke", [("x-amz-a", "50%")], b"{}", when
        )
        assert {name.decode(): value.decode() for name, value in added} == expected


def test_the_name_of_a_host_is_signed_as_it_is_written() -> None:
    signer, request = Signer(keys(), "bedrock", "us-east-1"), HttpRequest(Origin("H.test", 80), b"GET", b"/", [])
    other = HttpRequest(Origin("h.test", 80), b"GET", b"/", [])
    when, nothing = b"20150830T123600Z", payload_hash(b"")
    assert signer.sign(request, nothing, when) != signer.sign(other, nothing, when)


def test_one_signer_signs_on_when_the_day_changes() -> None:
    signer, request = Signer(keys(), "bedrock", "us-east-1"), HttpRequest(Origin("h", 80), b"GET", b"/", [])
    for when in ("20261123T235959Z", "20261124T000000Z", "20261123T235959Z"):
        added = dict(signer.sign(request, payload_hash(b""), when.encode()))
        assert (
            added[b"authorization"].decode()
            == by_botocore((keys(), "bedrock", "us-east-1"), "GET", "http://h/", [], b"", when)["authorization"]
        )


@pytest.mark.parametrize("parts", [[], [b""], [b"one"], [b"one", memoryview(b"xtwox")[1:4], b"", b"three"]])
def test_a_body_in_buffers_has_the_hash_of_the_whole(parts: list[bytes]) -> None:
    assert payload_hash(parts) == hashlib.sha256(b"".join(parts)).hexdigest().encode() == payload_hash(b"".join(parts))


def test_signers_are_equal_when_their_keys_are() -> None:
    one = Signer(keys(token="t"), "bedrock", "us-east-1")
    assert one == Signer(keys(token="t"), "bedrock", "us-east-1")
    assert hash(one) == hash(Signer(keys(token="t"), "bedrock", "us-east-1"))
    for other in (
        Signer(keys(), "bedrock", "us-east-1"),
        Signer(keys(secret="other", token="t"), "bedrock", "us-east-1"),
        Signer(keys(token="t"), "sts", "us-east-1"),
        object(),
    ):
        assert one != other


def test_neither_keys_nor_signers_show_what_they_hold() -> None:
    own = keys("AKIDSHOWN", "the-secret", "the-token")
    shown = repr(own) + str(own) + repr(Signer(own, "bedrock", "us-east-1"))
    assert not any(value in shown for value in ("AKIDSHOWN", "the-secret", "the-token"))
