"""`import litellm`: a configuration file made of one of LiteLLM's (LiteLLM's documentation, "Config.yaml")."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec

from bud_asgi.auth import hash_api_key

_ENVIRONMENT = "os.environ/"
_MAX_TARGETS = 3
_SHORTEST_KEY = 20
_PARAMS = {
    "anthropic": {"api_key": "api_key", "api_base": "base_url"},
    "bedrock": {
        "aws_region_name": "region",
        "aws_bedrock_runtime_endpoint": "endpoint",
        "aws_profile_name": "profile",
        "aws_access_key_id": "access_key",
        "aws_secret_access_key": "secret_key",
        "aws_session_token": "session_token",
        "aws_role_name": "role_arn",
        "aws_session_name": "session_name",
        "aws_external_id": "external_id",
        "api_key": "bearer_token",
    },
    "vertex": {
        "vertex_project": "project",
        "vertex_location": "region",
        "vertex_credentials": "service_account_file",
        "api_base": "base_url",
    },
}
"""For each kind of provider, LiteLLM's parameters and our keys."""

_SECRETS = {"api_key", "access_key", "secret_key", "session_token", "bearer_token"}
_OF_TARGETS = {"model", "weight", "max_parallel_requests", "timeout", "stream_timeout"}
_SETTINGS = {
    "litellm_settings": {"fallbacks", "default_fallbacks", "request_timeout"},
    "router_settings": {"fallbacks", "default_fallbacks", "model_group_alias", "routing_strategy", "timeout"},
    "general_settings": {"master_key"},
}
"""The settings that are converted, by section."""

_ADVICE = {
    "rpm": "limits apply to callers, models or all requests, not to deployments: see [[limits]]",
    "tpm": "limits apply to callers, models or all requests, not to deployments: see [[limits]]",
    "num_retries": "a failed request goes to the next target at once; a target is not tried twice",
    "allowed_fails": "failing targets are left out automatically",
    "cooldown_time": "failing targets are left out automatically",
    "drop_params": "fields that a cloud does not support are left out automatically",
    "database_url": "keys can be stored with [key_store]: `bud-asgi keys`",
    "redis_host": "limits of several processes are counted in a [store]",
    "redis_port": "limits of several processes are counted in a [store]",
    "redis_password": "limits of several processes are counted in a [store]",
    "redis_url": "limits of several processes are counted in a [store]",
    "cache": "responses are not cached",
    "success_callback": "use an observer, OpenTelemetry or the access log",
    "failure_callback": "use an observer, OpenTelemetry or the access log",
    "callbacks": "use an observer, OpenTelemetry or the access log",
    "max_budget": "money is not limited; [[limits]] count requests and tokens",
    "input_cost_per_token": "costs are not computed",
    "output_cost_per_token": "costs are not computed",
}


class Conversion(msgspec.Struct, frozen=True):
    """The text of a configuration file with so many providers, and what could not be converted, as one line each."""

    text: str
    notes: tuple[str, ...]
    providers: int


class _Target(msgspec.Struct, frozen=True):
    provider: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def toml(self) -> str:
        if not self.options:
            return json.dumps(self.provider)
        pairs = (("provider", json.dumps(self.provider)), *self.options)
        return "{ " + ", ".join(f"{key} = {value}" for key, value in pairs) + " }"


class _Converter:
    """Collects providers, targets and notes while it reads the file."""

    def __init__(self, config: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._config, self._environ = config, environ
        self.notes: list[str] = []
        self.providers: dict[str, Mapping[str, str]] = {}
        self.groups: dict[str, list[_Target]] = {}

    def read_models(self) -> None:
        """Read the deployments, in groups of equal names."""
        for index, entry in enumerate(_list(self._config.get("model_list"))):
            path = f"model_list[{index}]"
            name, params = str(_table(entry).get("model_name", "")), _table(_table(entry).get("litellm_params"))
            found = _kind_and_model(str(params.get("model", "")))
            if found is None or not name:
                self.notes.append(
                    f"{path}: {params.get('model')}: not a Claude model of Anthropic, Bedrock or Vertex AI"
                )
                continue
            kind, model = found
            provider = self._provider(path, kind, params)
            if name.startswith(f"{kind}/") and "*" in name:
                self.notes.append(f"{path}: {name}: clients send the names of models without {kind}/")
                name = "claude-*"
            self.groups.setdefault(name, []).append(_Target(provider, self._options(path, name, model, params)))

    def _provider(self, path: str, kind: str, params: Mapping[str, Any]) -> str:
        """The name of the provider with these parameters, added if there is none yet."""
        known = _PARAMS[kind]
        keys = {"kind": json.dumps(kind)}
        for param, value in params.items():
            if param in known:
                value_text = self._value(f"{path}.litellm_params.{param}", known[param], value)
                if value_text is not None:
                    keys[known[param]] = value_text
            elif param not in _OF_TARGETS:
                self._note(f"{path}.litellm_params.{param}", param)
        for name, others in self.providers.items():
            if others == keys:
                return name
        taken = sum(name.partition("-")[0] == kind for name in self.providers)
        name = f"{kind}-{taken + 1}" if taken else kind
        self.providers[name] = keys
        return name

    def _value(self, path: str, key: str, value: object) -> str | None:
        """The value of a key as TOML: a reference for a secret, the value of the variable for anything else."""
        text = str(value)
        variable = text.removeprefix(_ENVIRONMENT)
        is_variable = variable != text
        if key in _SECRETS:
            if not is_variable:
                variable = re.sub(r"\W", "_", key).upper()
                self.notes.append(f"{path}: the secret itself is in the file: put it into the variable {variable}")
            return json.dumps(f"env:{variable}")
        if not is_variable:
            return json.dumps(text)
        if variable in self._environ:
            return json.dumps(self._environ[variable])
        self.notes.append(f"{path}: the variable {variable} is not set: add {key} to the file")
        return None

    def _options(self, path: str, name: str, model: str, params: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        options: list[tuple[str, str]] = []
        if model != name and "*" not in model:
            options.append(("model", json.dumps(model)))
        for param, key in (("weight", "weight"), ("max_parallel_requests", "concurrency")):
            if isinstance(number := params.get(param), int):
                options.append((key, str(number)))
        timeout = params.get("timeout", self._default_timeout())
        if isinstance(timeout, int | float):
            options.append(("timeouts", f"{{ first_byte = {timeout}, total = {timeout} }}"))
        if "stream_timeout" in params:
            self._note(f"{path}.litellm_params.stream_timeout", "stream_timeout")
        return tuple(options)

    def _default_timeout(self) -> object:
        router, general = _table(self._config.get("router_settings")), _table(self._config.get("litellm_settings"))
        return router.get("timeout", general.get("request_timeout"))

    def routes(self) -> Iterator[str]:
        """The routes, with fallbacks as further groups, and those of aliases."""
        fallbacks: dict[str, list[str]] = {}
        defaults: list[str] = []
        for section in ("litellm_settings", "router_settings"):
            settings = _table(self._config.get(section))
            for entry in _list(settings.get("fallbacks")):
                fallbacks |= {str(name): [str(other) for other in _list(to)] for name, to in _table(entry).items()}
            defaults += [str(name) for name in _list(settings.get("default_fallbacks"))]
        router = _table(self._config.get("router_settings"))
        for name in sorted(self.groups, key=lambda each: "*" in each):
            yield self._route(name, [name, *fallbacks.get(name, defaults)])
        for alias, of in _table(router.get("model_group_alias")).items():
            name = str(_table(cast("object", of)).get("model", of))
            if name in self.groups:
                yield self._route(str(alias), [name, *fallbacks.get(name, defaults)], alias_of=name)

    def _route(self, model: str, names: Sequence[str], alias_of: str = "") -> str:
        groups: list[list[_Target]] = []
        for name in dict.fromkeys(names):
            if name in self.groups:
                groups.append(
                    [_named(target, name) if alias_of or name != model else target for target in self.groups[name]]
                )
            else:
                self.notes.append(f"fallbacks: {name} of {model}: not a model of the file")
        if len(groups) > _MAX_TARGETS:
            self.notes.append(f"fallbacks: {model}: only the first {_MAX_TARGETS} are tried")
        text = [_group(group) for group in groups[:_MAX_TARGETS]]
        strategy = str(_table(self._config.get("router_settings")).get("routing_strategy", ""))
        balance = (
            'balance = "least_busy"\n' if strategy == "least-busy" and any(len(each) > 1 for each in groups) else ""
        )
        return f"\n[[routes]]\nmodel = {json.dumps(model)}\nto = [{', '.join(text)}]\n{balance}"

    def keys(self) -> str:
        """The caller that has LiteLLM's master key; the file gets its hash."""
        key = _table(self._config.get("general_settings")).get("master_key")
        text = str(key or "")
        if text.startswith(_ENVIRONMENT):
            text = self._environ.get(text.removeprefix(_ENVIRONMENT), "")
        if not text:
            self.notes.append(
                "keys: no master_key was found: add a caller with `bud-asgi keys new NAME >> gateway.toml`"
            )
            return ""
        if len(text) < _SHORTEST_KEY:
            self.notes.append(
                "general_settings.master_key: it can be guessed: replace it with `bud-asgi keys new NAME`"
            )
        return f'\n[[keys]]\nname = "master"\nhash = "{hash_api_key(text)}"\n'

    def note_the_rest(self) -> None:
        """Note the settings that have not been converted."""
        for section, settings in self._config.items():
            if section == "model_list":
                continue
            if section == "environment_variables":
                self.notes.append(f"{section}: set them in the environment of the server")
                continue
            for name in _table(settings):
                if name not in _SETTINGS.get(section, ()):
                    self._note(f"{section}.{name}", str(name))
        strategy = _table(self._config.get("router_settings")).get("routing_strategy", "simple-shuffle")
        if strategy not in {"simple-shuffle", "least-busy"}:
            self.notes.append(
                f"router_settings.routing_strategy: {strategy}: each conversation keeps its target instead"
            )

    def _note(self, path: str, name: str) -> None:
        self.notes.append(f"{path}: {_ADVICE.get(name, 'has no counterpart')}")


def convert(config: Mapping[str, Any], environ: Mapping[str, str]) -> Conversion:
    """Convert a configuration of LiteLLM's; the result may need what its notes list before it is valid.

    Variables in `environ` that are not secrets are replaced by their values.
    """
    converter = _Converter(config, environ)
    converter.read_models()
    routes = "".join(converter.routes())
    keys = converter.keys()
    converter.note_the_rest()
    providers = "".join(
        f"[providers.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys_of.items()) + "\n"
        for name, keys_of in converter.providers.items()
    )
    return Conversion(
        providers.rstrip("\n") + "\n" + keys + routes, tuple(dict.fromkeys(converter.notes)), len(converter.providers)
    )


def _kind_and_model(model: str) -> tuple[str, str] | None:
    """The kind of provider and its name for the model; `None` for a model that is not Claude's."""
    service, slash, name = model.partition("/")
    if not slash:
        return ("anthropic", model) if model.startswith("claude-") else None
    if service == "anthropic":
        return "anthropic", name
    if service == "bedrock":
        name = re.sub(r"^(?:converse|invoke|converse_like)/", "", name)
        return ("bedrock", name) if re.search(r"anthropic|claude|^arn:|\*", name) else None
    if service == "vertex_ai":
        return ("vertex", name) if re.match(r"claude|\*", name) else None
    return None


def _group(targets: Sequence[_Target]) -> str:
    if len(targets) == 1:
        return targets[0].toml
    return "[" + ", ".join(target.toml for target in targets) + "]"


def _named(target: _Target, model: str) -> _Target:
    """The target with the name of the model that it gets."""
    if any(key == "model" for key, _ in target.options) or "*" in model:
        return target
    return _Target(target.provider, (("model", json.dumps(model)), *target.options))


def _table(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list) else ()
