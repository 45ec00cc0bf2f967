"""Which inference profile serves a model in a region: the whole table of the vendors' pages, typed here once more."""

from __future__ import annotations

import json
from datetime import date
from importlib.resources import files

import pytest

from bud_asgi import Bedrock
from bud_asgi.catalogue import served_at
from bud_asgi.options import OptionError
from bud_asgi.protocol.errors import NotFound
from bud_asgi.providers.bedrock.profiles import ProfileTable, profile_of, profile_table
from bud_asgi.providers.bedrock.provider import InferenceProfile
from bud_asgi.providers.compat.model_ids import bedrock_base_id
from providers.cloud_requests import call_of

ALL = "global us eu jp apac au us-gov"
PROFILES = {
    "claude-opus-5-5": ALL,
    "claude-sonnet-5-5": ALL,
    "claude-haiku-5-5": ALL,
    "claude-fable-5-1": "global us eu us-gov",
    "claude-mythos-5-1": "global us",
    "claude-opus-5": ALL,
    "claude-sonnet-5": ALL,
    "claude-fable-5": "global us eu apac au",
    "claude-mythos-5": "us",
    "claude-opus-4-8": ALL,
    "claude-opus-4-7": "global us eu jp apac au",
    "claude-mythos-preview": "us apac au",
    "claude-opus-4-6": "global us eu jp apac au",
    "claude-sonnet-4-6": "global us eu jp apac au",
    "claude-haiku-4-5-20251001": "global us eu jp apac au",
    "claude-opus-4-5-20251101": "global us eu",
    "claude-sonnet-4-5-20250929": "global us eu jp au us-gov",
    "claude-opus-4-1-20250805": "us",
    "claude-sonnet-4-20250514": "global us eu apac",
}
GEOGRAPHIES = {
    "us": "us-east-1 us-east-2 us-west-1 us-west-2",
    "eu": "eu-central-1 eu-central-2 eu-north-1 eu-south-1 eu-south-2 eu-west-1 eu-west-2 eu-west-3",
    "jp": "ap-northeast-1 ap-northeast-3",
    "au": "ap-southeast-2 ap-southeast-4",
    "apac": "ap-northeast-2 ap-south-1 ap-south-2 ap-southeast-1 ap-southeast-3 ap-southeast-5 ap-east-2",
    "us-gov": "us-gov-west-1 us-gov-east-1",
    "none": "ca-central-1 ca-west-1 sa-east-1 me-central-1 me-south-1 af-south-1 il-central-1 mx-central-1",
}
REGIONS = {region: geography for geography, regions in GEOGRAPHIES.items() for region in regions.split()}


def expected_profile(model: str, region: str) -> str | None:
    """The profile of the geography, else the global one, which GovCloud lacks; Japan and Australia are in APAC too."""
    existing, geography = PROFILES[model].split(), REGIONS[region]
    wanted = [geography] if geography == "us-gov" else [geography, "global"]
    if geography in {"jp", "au"}:
        wanted.append("apac")
    return next((profile for profile in wanted if profile in existing), None)


def bedrock(region: str, inference_profile: InferenceProfile = "auto") -> Bedrock:
    return Bedrock(region=region, inference_profile=inference_profile, access_key="AKIA", secret_key="secret")


@pytest.mark.parametrize("region", REGIONS)
def test_every_model_is_called_through_a_profile_that_exists_in_the_region(region: str) -> None:
    provider = bedrock(region)
    for model in PROFILES:
        call, profile = call_of({"model": model}), expected_profile(model, region)
        if profile is None:
            with pytest.raises(NotFound) as refused:
                provider.encode(call)
            assert str(refused.value) == f"model: {model} is not available in the AWS region {region}"
        else:
            path = provider.encode(call).request.target
            assert path == f"/model/{profile}.{bedrock_base_id(model)}/invoke".encode()


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_lists_the_models_that_it_has(region: str) -> None:
    listed = bedrock(region).models
    for model in PROFILES:
        assert (model in listed) == (expected_profile(model, region) is not None)


def test_the_table_covers_the_catalogue() -> None:
    assert set(PROFILES) == set(served_at("bedrock")) - {"claude-fable-5-2", "claude-mythos-5-2"}


UNKNOWN = {
    ("claude-opus-9", "eu-west-1"): "eu.anthropic.claude-opus-9",
    ("claude-opus-9", "ap-south-1"): "apac.anthropic.claude-opus-9",
    ("claude-fable-5-2", "us-east-1"): "us.anthropic.claude-fable-5-2",
    ("claude-fable-5-2", "ap-northeast-1"): "global.anthropic.claude-fable-5-2",
    ("claude-mythos-5-2", "eu-west-1"): "global.anthropic.claude-mythos-5-2",
    ("claude-newline-1", "ap-southeast-2"): "au.anthropic.claude-newline-1",
    ("claude-newline-1", "us-gov-west-1"): "us-gov.anthropic.claude-newline-1",
    ("claude-newline-1", "sa-east-1"): "global.anthropic.claude-newline-1",
    ("claude-3-haiku-20240307", "sa-east-1"): "anthropic.claude-3-haiku-20240307-v1:0",
    ("claude-3-5-haiku-latest", "us-west-2"): "us.anthropic.claude-3-5-haiku-20241022-v1:0",
    ("claude-3-5-haiku-latest", "eu-west-1"): "anthropic.claude-3-5-haiku-20241022-v1:0",
    ("claude-opus-4-8", "cn-north-1"): "anthropic.claude-opus-4-8",
    ("claude-opus-4-8", "eusc-de-east-1"): "anthropic.claude-opus-4-8",
}


@pytest.mark.parametrize(("model", "region", "identifier"), [(*pair, path) for pair, path in UNKNOWN.items()])
def test_a_model_or_region_that_is_not_in_the_table(model: str, region: str, identifier: str) -> None:
    assert bedrock(region).encode(call_of({"model": model})).request.target == f"/model/{identifier}/invoke".encode()


def test_the_operator_s_profile_is_used_for_every_model() -> None:
    for model in PROFILES:
        path = bedrock("eu-west-1", "us").encode(call_of({"model": model})).request.target
        assert path == f"/model/us.{bedrock_base_id(model)}/invoke".encode()


def test_govcloud_has_no_other_profiles() -> None:
    with pytest.raises(OptionError, match=r"^inference_profile: us-gov-west-1 has the profiles of us-gov only$"):
        bedrock("us-gov-west-1", "global")
    assert bedrock("us-gov-west-1", "us-gov").models


def test_the_data_is_dated_and_has_no_unknown_fields() -> None:
    table = profile_table()
    assert date.fromisoformat(table.as_of) >= date(2026, 11, 23)
    raw = json.loads((files("bud_asgi") / "data" / "bedrock_profiles.json").read_text())
    assert set(raw) == set(ProfileTable.__struct_fields__)
    known = {"global", "us", "eu", "jp", "apac", "au", "us-gov", ""}
    assert {profile for profiles in (*table.models.values(), *table.regions.values()) for profile in profiles} <= known


def test_a_look_up_is_cached() -> None:
    before = profile_of.cache_info().hits
    profile_of("anthropic.claude-opus-5", "us-east-1")
    profile_of("anthropic.claude-opus-5", "us-east-1")
    assert profile_of.cache_info().hits > before
