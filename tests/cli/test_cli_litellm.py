"""`bud-asgi import litellm`: what is converted is valid and complete, and all the rest is listed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from bud_asgi.cli.commands import group
from bud_asgi.cli.litellm import convert
from bud_asgi.config import Settings, read_file

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "litellm.md").read_text()
MASTER = "sk-litellm-the-master-key-of-a-test"
SECRETS = {"ANTHROPIC_API_KEY": "sk-ant-x", "LITELLM_MASTER_KEY": MASTER, "AWS_KEY": "AKIAX", "AWS_SECRET": "s" * 20}


def model(name: str, model: str, **params: Any) -> dict[str, Any]:
    """An entry of `model_list`."""
    return {"model_name": name, "litellm_params": {"model": model, **params}}


def claude(name: str = "claude-x", **params: Any) -> dict[str, Any]:
    """A model of Anthropic's."""
    return model(name, "anthropic/claude-haiku-4-5", api_key="os.environ/ANTHROPIC_API_KEY", **params)


def settings(text: str, folder: Path) -> Settings:
    """The settings of a converted file, with a caller if it has none."""
    if "[[keys]]" not in text:
        text = "allow_anonymous = true\n" + text
    (folder / "gateway.toml").write_text(text)
    return read_file(folder / "gateway.toml", environ=SECRETS)


def test_the_example_of_the_page_is_what_the_command_writes(tmp_path: Path) -> None:
    (config,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (file,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (notes,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "config.yaml").write_text(config)
    shown = CliRunner().invoke(group, ["import", "litellm", str(tmp_path / "config.yaml")], env=SECRETS)
    hashes = re.compile("sha256:[0-9a-f]{64}")
    assert shown.exit_code == 0
    assert hashes.sub("", shown.stdout) == hashes.sub("", file)
    assert shown.stderr == notes
    assert MASTER not in shown.output
    read = settings(shown.stdout, tmp_path)
    assert [provider.name for provider in read.providers] == ["anthropic", "bedrock", "vertex"]
    assert [route.model for route in read.routes or ()] == ["claude-sonnet", "claude-haiku", "fast"]


NOTES: dict[str, tuple[dict[str, Any], str]] = {
    "another vendor": ({"model_list": [claude(), model("gpt", "openai/gpt-4o")]}, "model_list[1]: openai/gpt-4o: not"),
    "a literal secret": (
        {"model_list": [model("a", "anthropic/claude-x", api_key="sk-ant-CANARY")]},
        "model_list[0].litellm_params.api_key: the secret itself is in the file: put it into the variable API_KEY",
    ),
    "a variable that is not set": (
        {"model_list": [model("a", "bedrock/anthropic.claude-x", aws_region_name="os.environ/NO_REGION")]},
        "model_list[0].litellm_params.aws_region_name: the variable NO_REGION is not set: add region to the file",
    ),
    "a limit of a deployment": ({"model_list": [claude(rpm=3)]}, "model_list[0].litellm_params.rpm: limits apply to"),
    "an unknown parameter": ({"model_list": [claude(seed=3)]}, "litellm_params.seed: has no counterpart"),
    "an unknown fallback": (
        {"model_list": [claude()], "router_settings": {"fallbacks": [{"claude-x": ["gpt"]}]}},
        "fallbacks: gpt of claude-x: not a model of the file",
    ),
    "a strategy": (
        {"model_list": [claude()], "router_settings": {"routing_strategy": "latency-based-routing"}},
        "routing_strategy: latency-based-routing: each conversation keeps its target instead",
    ),
    "retries": (
        {"model_list": [claude()], "litellm_settings": {"num_retries": 3}},
        "num_retries: a failed request goes",
    ),
    "variables": ({"model_list": [claude()], "environment_variables": {"A": "b"}}, "set them in the environment"),
    "no master key": ({"model_list": [claude()]}, "keys: no master_key was found"),
    "a master key that can be guessed": (
        {"model_list": [claude()], "general_settings": {"master_key": "sk-1234"}},
        "master_key: it can be guessed",
    ),
    "names with the provider": (
        {"model_list": [model("anthropic/*", "anthropic/*", api_key="os.environ/ANTHROPIC_API_KEY")]},
        "model_list[0]: anthropic/*: clients send the names of models without anthropic/",
    ),
}


@pytest.mark.parametrize("name", NOTES)
def test_what_is_not_converted_is_listed(name: str) -> None:
    config, note = NOTES[name]
    converted = convert(config, SECRETS)
    assert any(note in line for line in converted.notes), converted.notes
    assert "CANARY" not in converted.text + "".join(converted.notes)


def test_all_that_has_a_counterpart_is_converted(tmp_path: Path) -> None:
    config = {
        "model_list": [
            claude("a", weight=2, max_parallel_requests=5, timeout=30),
            model(
                "a",
                "bedrock/converse/anthropic.claude-haiku-4-5-20251001-v1:0",
                aws_region_name="eu-west-1",
                aws_access_key_id="os.environ/AWS_KEY",
                aws_secret_access_key="os.environ/AWS_SECRET",
            ),
            model("b", "vertex_ai/claude-haiku-4-5", vertex_project="p", vertex_location="global"),
            model("local", "anthropic/qwen3", api_base="http://127.0.0.1:11434"),
            claude("claude-*"),
        ],
        "litellm_settings": {"request_timeout": 60, "default_fallbacks": ["b"]},
    }
    converted = convert(config, SECRETS)
    read = settings(converted.text, tmp_path)
    assert [provider.name for provider in read.providers] == ["anthropic", "bedrock", "vertex", "anthropic-2"]
    routes = {route.model: route for route in read.routes or ()}
    assert list(routes) == ["a", "b", "local", "claude-*"]
    first, second, fallback = routes["a"].targets
    assert (first.weight, first.concurrency, first.model) == (2, 5, "claude-haiku-4-5")
    assert first.timeouts is not None
    assert (first.timeouts.first_byte, first.timeouts.total) == (30, 30)
    assert second.timeouts is not None
    assert second.timeouts.total == 60
    assert fallback.provider == "vertex"
    assert routes["local"].targets[0].provider == "anthropic-2"


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "model_list: 3", "model_list: [3, {litellm_params: 4}]", "\xff"])
def test_a_file_of_another_kind_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_bytes(text.encode("latin-1"))
    shown = CliRunner().invoke(group, ["import", "litellm", str(tmp_path / "config.yaml")])
    assert shown.exit_code == 1
    assert shown.stderr.splitlines()[-1].startswith("error: ")
    assert shown.stdout == ""
    assert not isinstance(shown.exception, Exception)


def test_a_yaml_file_can_be_read_as_it_is() -> None:
    loaded = yaml.safe_load("model_list:\n- model_name: a\n  litellm_params: {model: claude-haiku-4-5}\n")
    assert '[providers.anthropic]\nkind = "anthropic"\n' in convert(loaded, {}).text
