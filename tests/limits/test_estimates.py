"""Estimates of what a request will use: they come to rest at a percentile, and forget the oldest callers."""

from __future__ import annotations

import random
from base64 import b64encode

import pytest

from bud_asgi.limits import estimates
from bud_asgi.limits.estimates import FIRST_OUTPUT, OUTPUT_PERCENTILE, Estimates

BODY = b"word " * 720


def outputs(seed: int, number: int) -> list[int]:
    """Lengths of replies as they are: most are short, some ten times as long."""
    source = random.Random(seed)
    return [round(source.lognormvariate(6.0, 1.0)) for _ in range(number)]


@pytest.mark.parametrize("seed", range(5))
def test_nine_of_ten_replies_stay_below_what_is_reserved_for_them(seed: int) -> None:
    learned, below = Estimates(), 0
    replies = outputs(seed, 2500)
    for index, output in enumerate(replies):
        if index >= 500:
            below += output <= learned.of("opus", "ann").expect(BODY, None)[1]
        learned.of("opus", "ann").learn(len(BODY), 1000, output)
    assert below / 2000 == pytest.approx(OUTPUT_PERCENTILE, abs=0.03)


def test_what_is_reserved_follows_a_caller_whose_replies_get_longer() -> None:
    learned = Estimates()
    for output in [10] * 50 + [10_000] * 20:
        learned.of("opus", "ann").learn(len(BODY), 1000, output)
    assert 10_000 <= learned.of("opus", "ann").expect(BODY, None)[1] <= 20_000


def test_no_more_is_reserved_than_the_request_allows() -> None:
    learned = Estimates()
    assert learned.of("opus", "ann").expect(BODY, None)[1] == FIRST_OUTPUT
    assert learned.of("opus", "ann").expect(BODY, 7)[1] == 7
    for _ in range(50):
        learned.of("opus", "ann").learn(len(BODY), 1000, 500)
    assert learned.of("opus", "ann").expect(BODY, 100)[1] == 100
    assert learned.of("opus", "ann").expect(BODY, 100_000)[1] == pytest.approx(500, rel=0.5)


def test_input_is_estimated_by_the_bytes_of_the_body_and_the_ratio_is_learned() -> None:
    learned = Estimates()
    assert learned.of("opus", "ann").expect(BODY, None)[0] == 1000
    for _ in range(50):
        learned.of("opus", "ann").learn(len(BODY), 2000, 1)
    assert learned.of("opus", "ann").expect(BODY, None)[0] == 2000
    assert learned.of("opus", "ann").expect(BODY * 2, None)[0] == 4000
    assert learned.of("opus", "ann").expect(b"", None)[0] == 1


def test_a_principal_without_history_gets_what_others_of_the_model_use() -> None:
    learned = Estimates()
    for _ in range(50):
        learned.of("opus", "ann").learn(len(BODY), 2000, 50)
    assert learned.of("opus", "bob").expect(BODY, None) == learned.of("opus", "ann").expect(BODY, None)
    assert learned.of("haiku", "ann").expect(BODY, None) == (1000, FIRST_OUTPUT)
    learned.of("opus", "bob").learn(len(BODY), 500, 3)
    assert learned.of("opus", "bob").expect(BODY, None) == (500, 3)


def test_documents_that_a_body_refers_to_teach_no_more_than_a_token_for_a_byte() -> None:
    learned = Estimates()
    learned.of("opus", "ann").learn(100, 500_000, 1)  # the URL of a book
    assert learned.of("opus", "bob").expect(BODY, None)[0] == len(BODY)


@pytest.mark.parametrize("known", [True, False])
def test_a_file_is_not_measured_by_the_ratio_of_texts(*, known: bool) -> None:
    learned = Estimates()
    if known:
        learned.of("opus", "ann").learn(len(BODY), 1000, 1)
    image = b64encode(random.Random(1).randbytes(1_000_000))
    body = b'{"source":{"type":"base64","media_type":"image/png","data":"%b"},"text":"%b"}' % (image, b"word " * 7200)
    assert learned.of("opus", "ann").expect(body, None)[0] == pytest.approx(11_500, rel=0.01)
    for _ in range(20):
        learned.of("opus", "ann").learn(len(body), 100, 1)  # most of it is read from the cache
    assert learned.of("opus", "ann").expect(body, None)[0] < 5000


def test_counts_that_are_not_known_teach_nothing() -> None:
    learned = Estimates()
    learned.of("opus", "ann").learn(len(BODY), None, None)
    learned.of("opus", "ann").learn(0, 5, None)
    assert learned.of("opus", "ann").expect(BODY, None) == (1000, FIRST_OUTPUT)


def test_a_reply_of_nothing_counts_and_the_estimate_can_grow_again() -> None:
    learned = Estimates()
    for _ in range(100):
        learned.of("opus", "ann").learn(len(BODY), 1000, 0)
    assert learned.of("opus", "ann").expect(BODY, None)[1] == 1
    for _ in range(20):
        learned.of("opus", "ann").learn(len(BODY), 1000, 1000)
    assert learned.of("opus", "ann").expect(BODY, None)[1] >= 1000


def test_what_is_remembered_is_bounded_and_the_oldest_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "MAX_HISTORIES", 10)
    learned = Estimates()
    for number in range(30):
        learned.of(f"m{number % 15}", f"p{number}").learn(len(BODY), 1000, number + 1)
        assert len(learned) <= 20
    assert learned.of("m14", "p29").expect(BODY, None)[1] == 30
    assert learned.of("m0", "p0").expect(BODY, None)[1] == FIRST_OUTPUT
