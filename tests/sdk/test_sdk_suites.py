"""The official Python SDK, of both generations, can't tell the gateway from the real service."""

from __future__ import annotations

import pytest
from sdk_run import SDKS, run_suite
from sdk_stage import BACKENDS, stage
from support.counts import TORTURE
from support.waiting import wait_until

CASES = 200
"""At least so many there are; the newer SDK has some of its own."""

ROLE = "messages.1.role: Input should be 'user', 'assistant' or 'system'"
REFUSED_ON_PURPOSE = {
    "anthropic": {
        'anthropic-version: "2099-01-01" is not a valid version',
        "context_management: Extra inputs are not permitted",
        "max_tokens: Extra inputs are not permitted",
        ROLE,
        "temperature: Extra inputs are not permitted",
        "{credential}",
    },
    "vertex": {ROLE},
    "bedrock": {ROLE},
}

SUITES = [
    (sdk, backend)
    for sdk in SDKS
    for backend in (BACKENDS if sdk == "current" or TORTURE else ["anthropic"])  # which the older SDK does not notice
]

CREDENTIAL = {"current": "Invalid bearer token", "0.125": "invalid x-api-key"}


@pytest.mark.torture
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("sdk", "backend"), SUITES)
def test_a_suite_passes_and_causes_only_the_refusals_that_it_means_to(sdk: str, backend: str) -> None:
    with stage(backend) as here:
        ran = run_suite(here, sdk)
        failed = [case for case in ran.cases if case.failure]
        if failed:
            told = "\n\n".join(f"{case.name}: {case.failure}" for case in failed)
            command = f"PYTHONPATH=tests python tests/sdk/sdk_run.py --backend {backend} --sdk {sdk} -k NAME"
            pytest.fail(f"{told}\n\nBy hand: {command}", pytrace=False)
        assert ran.status == 0, ran.said
        assert len(ran.cases) >= CASES
        refused = {str(one.refusal) for one in here.upstream.refused}
        assert refused == {words.format(credential=CREDENTIAL[sdk]) for words in REFUSED_ON_PURPOSE[backend]}
        wait_until(lambda: not here.still_open(), f"left open: {here.still_open()}")
