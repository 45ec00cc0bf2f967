"""The ids of models on the clouds."""

from __future__ import annotations

import pytest

from bud_asgi.catalogue import catalogue
from bud_asgi.providers.compat.model_ids import (
    base_id_in,
    bedrock_base_id,
    claude_name,
    generation,
    geography,
    is_native,
    vertex_id,
)

NAMES = [
    ("claude-opus-4-8", (4, 8), "anthropic.claude-opus-4-8", "claude-opus-4-8"),
    ("claude-opus-4-6", (4, 6), "anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
    ("claude-sonnet-4-6", (4, 6), "anthropic.claude-sonnet-4-6", "claude-sonnet-4-6"),
    ("claude-haiku-4-5", (4, 5), "anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5@20251001"),
    ("claude-haiku-4-5-20251001", (4, 5), "anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5@20251001"),
    ("claude-sonnet-4-20250514", (4, 0), "anthropic.claude-sonnet-4-20250514-v1:0", "claude-sonnet-4@20250514"),
    ("claude-sonnet-4", (4, 0), "anthropic.claude-sonnet-4-20250514-v1:0", "claude-sonnet-4@20250514"),
    # not in the catalogue
    ("claude-opus-7", (7, 0), "anthropic.claude-opus-7", "claude-opus-7"),
    ("claude-opus-7-1", (7, 1), "anthropic.claude-opus-7-1", "claude-opus-7-1"),
    ("claude-newline-6-20270101", (6, 0), "anthropic.claude-newline-6-20270101", "claude-newline-6-20270101"),
    ("claude-haiku-4-6-20260101", (4, 6), "anthropic.claude-haiku-4-6-20260101", "claude-haiku-4-6-20260101"),
    ("claude-haiku-4-1-20250101", (4, 1), "anthropic.claude-haiku-4-1-20250101-v1:0", "claude-haiku-4-1@20250101"),
    ("claude-3-haiku-20240307", (3, 0), "anthropic.claude-3-haiku-20240307-v1:0", "claude-3-haiku@20240307"),
    ("claude-3-7-sonnet-20250219", (3, 7), "anthropic.claude-3-7-sonnet-20250219-v1:0", "claude-3-7-sonnet@20250219"),
    ("claude-opus-4-1@20250805", (4, 1), "anthropic.claude-opus-4-1@20250805", "claude-opus-4-1@20250805"),
    ("fast", None, "anthropic.fast", "fast"),
]


@pytest.mark.parametrize(("name", "named", "bedrock", "vertex"), NAMES)
def test_the_ids_of_a_model_on_each_cloud(name: str, named: tuple[int, int] | None, bedrock: str, vertex: str) -> None:
    assert (generation(name), bedrock_base_id(name), vertex_id(name)) == (named, bedrock, vertex)


def test_the_rules_agree_with_the_catalogue() -> None:
    for model in catalogue().models:
        for name in filter(None, (model.id, model.alias)):
            assert bedrock_base_id(name) == model.bedrock
            assert model.vertex is None or vertex_id(name) == model.vertex
        assert claude_name(model.bedrock or "") == model.id


NATIVE = [
    ("anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
    ("us.anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
    ("us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5-20250929"),
    ("nowhere.anthropic.claude-opus-9", "claude-opus-9"),
    ("anthropic.claude-3-5-sonnet-20241022-v2:0:200k", "claude-3-5-sonnet-20241022"),
    ("arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-opus-4-8", "claude-opus-4-8"),
    ("arn:aws-us-gov:bedrock:us-gov-west-1:1:inference-profile/us-gov.anthropic.claude-opus-4-8", "claude-opus-4-8"),
    ("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc", None),
    ("arn:aws:bedrock:us-east-1:123456789012:provisioned-model/abcdefghijkl", None),
]


@pytest.mark.parametrize(("identifier", "name"), NATIVE)
def test_a_bedrock_identifier_may_name_its_model(identifier: str, name: str | None) -> None:
    assert is_native(identifier)
    base = base_id_in(identifier)
    assert (claude_name(base) if base else None) == name


@pytest.mark.parametrize(
    "name", ["claude-opus-4-8", "amazon.nova-pro-v1:0", "", "anthropic.", "us.claude", "ANTHROPIC.a"]
)
def test_other_names_are_not_bedrock_identifiers(name: str) -> None:
    assert not is_native(name)
    assert base_id_in(name) is None


@pytest.mark.parametrize(
    ("region", "prefix"),
    [
        ("us-east-1", "us"),
        ("us-gov-west-1", "us-gov"),
        ("eu-central-1", "eu"),
        ("ap-northeast-1", "jp"),
        ("ap-northeast-2", "apac"),
        ("ap-northeast-3", "jp"),
        ("ap-southeast-2", "au"),
        ("ap-southeast-4", "au"),
        ("ap-southeast-1", "apac"),
        ("ap-south-1", "apac"),
        ("ca-central-1", "global"),
        ("sa-east-1", "global"),
        ("me-central-1", "global"),
    ],
)
def test_a_region_uses_the_profiles_of_its_geography(region: str, prefix: str) -> None:
    assert geography(region) == prefix
