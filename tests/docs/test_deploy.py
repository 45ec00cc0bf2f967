"""docs/deploy.md: each configuration is valid for the tool that reads it, and its durations fit together."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import crossplane  # pyright: ignore[reportMissingTypeStubs]
import kubernetes_validate  # pyright: ignore[reportMissingTypeStubs]
import pytest
import yaml
from click.testing import CliRunner

from bud_asgi.cli.commands import group
from bud_asgi.config import read_file

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "deploy.md").read_text()
BIN = Path(sys.executable).parent


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(block("yaml")))


def options_of(command: list[str]) -> dict[str, str]:
    """Check that `bud-asgi` has each option of a command, and return those with a value."""
    words = command[command.index("serve") :]
    shown = CliRunner().invoke(group, ["serve", "--help"]).output
    for word in words:
        assert not word.startswith("--") or word in shown, word
    return {word: words[index + 1] for index, word in enumerate(words[:-1]) if word.startswith("--")}


def test_the_unit_of_systemd_waits_longer_than_the_drain() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    unit.read_string(block("ini"))
    service = unit["Service"]
    options = options_of(service["ExecStart"].split())
    assert int(service["TimeoutStopSec"]) > int(options["--drain-timeout"])
    name, _, _ = service["LoadCredential"].partition(":")
    assert f'file:/run/credentials/bud-asgi.service/{name}"' in block("toml")


def test_the_file_beside_the_unit_is_valid(tmp_path: Path) -> None:
    secret = tmp_path / "anthropic"
    secret.write_text("sk-ant-x")
    file = tmp_path / "gateway.toml"
    file.write_text(block("toml").replace("/run/credentials/bud-asgi.service/anthropic", str(secret)))
    assert [key.name for key in read_file(file).keys] == ["ci"]


def test_nginx_reads_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "nginx.conf"
    file.write_text("events {}\nhttp {\n" + block("nginx") + "}\n")
    parsed = crossplane.parse(str(file), catch_errors=True, strict=True)
    assert parsed["errors"] == []
    assert parsed["status"] == "ok"


def test_caddy_reads_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "Caddyfile"
    file.write_text(block("caddyfile"))
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    for words in (["validate", "--adapter", "caddyfile", "--config"], ["fmt", "--diff"]):
        shown = subprocess.run(
            [BIN / "caddy", *words, file], capture_output=True, text=True, env=environment, check=False
        )
        assert shown.returncode == 0, shown.stdout + shown.stderr


def test_hadolint_finds_nothing_in_the_dockerfile(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(block("dockerfile"))
    shown = subprocess.run([BIN / "hadolint", file], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout) == (0, "")
    (command,) = re.findall(r"^CMD \[(.*)\]$", block("dockerfile"), re.MULTILINE)
    assert options_of([word.strip(' "') for word in command.split(",")]) == {"--host": "0.0.0.0"}


@pytest.mark.parametrize("manifest", manifests(), ids=lambda manifest: manifest["kind"])
def test_each_manifest_is_valid_for_kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, "1.33", strict=True)


def test_the_pod_waits_longer_than_the_hook_and_the_drain(tmp_path: Path) -> None:
    config, deployment, service = manifests()
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    drain = int(options_of(container["args"])["--drain-timeout"])
    hook = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > hook + drain
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["containerPort"]
    secret = tmp_path / "anthropic"
    secret.write_text("sk-ant-x")
    file = tmp_path / "gateway.toml"
    file.write_text(config["data"]["gateway.toml"].replace("/etc/bud-asgi-secrets/anthropic", str(secret)))
    read_file(file)
