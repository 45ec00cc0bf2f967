"""The ids of models on the clouds."""

from __future__ import annotations

import pytest

from bud_asgi.catalogue import catalogue
from bud_asgi.providers.compat.model_ids import (
    anthropic_id,
    base_id_in,
    bedrock_base_id,
    claude_name,
    generation,
    is_native,
    line,
    vertex_id,
)

NAMES = [
    ("claude-opus-4-8", (4, 8), "anthropic.claude-opus-4-8", "claude-opus-4-8"),
    ("claude-opus-4-6", (4, 6), "anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
    ("claude-sonnet-4-6", (4, 6), "anthropic.claude-sonnet-4-6", "claude-sonnet-4-6"),
    ("claude-haiku-4-5", (4, 5), "anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5@20251001"),
    ("claude-haiku-4-5-20251001", (4, 5), "anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5@20251001"),
    ("claude-sonnet-4-20250514", (4, 0), "anthropic.claude-sonnet-4-20250514-v1:0", "claude-sonnet-4@20250514"),
    (
        "claude-3-5-sonnet-20241022",
        (3, 5),
        "anthropic.claude-3-5-sonnet-20241022-v2:0",
        "claude-3-5-sonnet-v2@20241022",
    ),
    # ids of the other cloud
    ("claude-opus-4-1@20250805", (4, 1), "anthropic.claude-opus-4-1-20250805-v1:0", "claude-opus-4-1@20250805"),
    (
        "claude-3-5-sonnet-v2@20241022",
        (3, 5),
        "anthropic.claude-3-5-sonnet-20241022-v2:0",
        "claude-3-5-sonnet-v2@20241022",
    ),
    ("claude-opus-4-8@default", (4, 8), "anthropic.claude-opus-4-8", "claude-opus-4-8@default"),
    ("us.anthropic.claude-opus-4-6-v1", None, "anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
    (
        "anthropic.claude-haiku-4-5-20251001-v1:0",
        None,
        "anthropic.claude-haiku-4-5-20251001-v1:0",
        "claude-haiku-4-5@20251001",
    ),
    # not in the catalogue
    ("claude-opus-7", (7, 0), "anthropic.claude-opus-7", "claude-opus-7"),
    ("claude-opus-7-1", (7, 1), "anthropic.claude-opus-7-1", "claude-opus-7-1"),
    ("claude-newline-6-20270101", (6, 0), "anthropic.claude-newline-6-20270101", "claude-newline-6-20270101"),
    ("claude-haiku-4-6-20260101", (4, 6), "anthropic.claude-haiku-4-6-20260101", "claude-haiku-4-6-20260101"),
    ("claude-haiku-4-1-20250101", (4, 1), "anthropic.claude-haiku-4-1-20250101-v1:0", "claude-haiku-4-1@20250101"),
    ("claude-3-haiku-20240307", (3, 0), "anthropic.claude-3-haiku-20240307-v1:0", "claude-3-haiku@20240307"),
    ("claude-3-7-sonnet-20250219", (3, 7), "anthropic.claude-3-7-sonnet-20250219-v1:0", "claude-3-7-sonnet@20250219"),
    ("fast", None, "anthropic.fast", "fast"),
]


@pytest.mark.parametrize(("name", "named", "bedrock", "vertex"), NAMES)
def test_the_ids_of_a_model_on_each_cloud(name: str, named: tuple[int, int] | None, bedrock: str, vertex: str) -> None:
    assert (generation(name), bedrock_base_id(name), vertex_id(name)) == (named, bedrock, vertex)


def test_the_rules_agree_with_the_catalogue() -> None:
    for model in catalogue().models:
        for name in filter(None, (model.id, *model.aliases, model.bedrock, model.vertex)):
            assert bedrock_base_id(name) == model.bedrock
            assert model.vertex is None or vertex_id(name) == model.vertex
        for cloud_id in filter(None, (model.bedrock, model.vertex)):
            assert anthropic_id(cloud_id) == model.id


# Anthropic's models page: every alias that the API has, or had while the model was served.
ALIASES = {
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "claude-opus-4-5": "claude-opus-4-5-20251101",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
    "claude-opus-4-1": "claude-opus-4-1-20250805",
    "claude-opus-4-0": "claude-opus-4-20250514",
    "claude-sonnet-4-0": "claude-sonnet-4-20250514",
    "claude-3-7-sonnet-latest": "claude-3-7-sonnet-20250219",
    "claude-3-5-haiku-latest": "claude-3-5-haiku-20241022",
    "claude-3-5-sonnet-latest": "claude-3-5-sonnet-20241022",
    "claude-3-opus-latest": "claude-3-opus-20240229",
}


def test_the_catalogue_has_the_vendor_s_aliases_and_no_others() -> None:
    assert {alias: model.id for model in catalogue().models for alias in model.aliases} == ALIASES


@pytest.mark.parametrize(("alias", "dated"), ALIASES.items(), ids=ALIASES)
def test_an_alias_is_sent_to_the_clouds_as_the_dated_id_that_it_stands_for(alias: str, dated: str) -> None:
    stem, _, day = dated.rpartition("-")
    version, revision = ("-v2:0", "-v2") if day == "20241022" and "sonnet" in stem else ("-v1:0", "")
    assert bedrock_base_id(alias) == bedrock_base_id(dated) == f"anthropic.{dated}{version}"
    assert vertex_id(alias) == vertex_id(dated) == f"{stem}{revision}@{day}"


@pytest.mark.parametrize(
    "name",
    [
        "haiku.anthropic.claude-opus-4-8",
        "us.anthropic.claude-opus-4-8:haiku",
        "us.anthropic.claude-opus-4-8-v1:haiku",
        "claude-opus-4-8@haiku",
        "arn:aws:bedrock:haiku:1:inference-profile/us.anthropic.claude-opus-4-8",
        "us.anthropic.claude-opus-4-8/claude-haiku",
    ],
)
def test_a_name_with_something_to_throw_away_is_not_translated(name: str) -> None:
    """Otherwise a caller that may use `*haiku*` reaches another model by decorating its id."""
    assert anthropic_id(name) == name
    assert "haiku" in vertex_id(name)


def test_the_line_of_a_model() -> None:
    names = ("claude-opus-4-8", "claude-3-7-sonnet-20250219", "claude-haiku-4-5@20251001", "claude-new-9", "fast")
    assert [line(name) for name in names] == ["opus", "sonnet", "haiku", "new", None]


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
