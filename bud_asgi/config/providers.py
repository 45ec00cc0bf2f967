"""The table of a provider as the provider that code would build, whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bud_asgi.config.problems import Problems, joined, shown
from bud_asgi.config.provider_tables import (
    AWS_REGION_WORDS,
    KIND_WORDS,
    PROJECT_WORDS,
    AnthropicTable,
    BedrockTable,
    GuardrailTable,
    TimeoutsTable,
    VertexTable,
)
from bud_asgi.config.reading import as_table, read_table
from bud_asgi.config.references import References
from bud_asgi.config.settings import ConfiguredProvider
from bud_asgi.http import Timeouts
from bud_asgi.options import OptionError
from bud_asgi.providers import Anthropic, Bedrock, GoogleCredential, Vertex
from bud_asgi.providers.anthropic import BASE_URL
from bud_asgi.providers.bedrock.provider import AwsOptions
from bud_asgi.providers.bedrock.request import is_identifier
from bud_asgi.secret import Secret

_NEEDS = {
    "access_key": "secret_key",
    "secret_key": "access_key",
    "session_token": "access_key",
    "external_id": "role_arn",
    "session_name": "role_arn",
}


class ProviderReader:
    """Reads tables of providers; what is wrong is noted. `keyed`: whether callers come with keys of the gateway's."""

    def __init__(self, problems: Problems, references: References, *, keyed: bool) -> None:
        self._problems = problems
        self._references = references
        self._keyed = keyed

    def read(self, name: str, table: object) -> ConfiguredProvider | None:
        """The provider of a table; `None`, and its problems noted, where there is none to be had."""
        path, given = joined("providers", name), as_table(table)
        if given is None:
            self._problems.mismatch(path, shown(table), "a table")
            return None
        if not name:
            self._problems.add(path, "a provider must have a name")
            return None
        match given.get("kind"):
            case "anthropic":
                return self._anthropic(name, given, path)
            case "bedrock":
                return self._bedrock(name, given, path)
            case "vertex":
                return self._vertex(name, given, path)
            case kind:  # of another kind, nothing else can be judged
                found = "nothing" if kind is None else shown(kind)
                self._problems.mismatch(f"{path}.kind", found, KIND_WORDS)
                return None

    def _anthropic(self, name: str, table: dict[str, object], path: str) -> Anthropic | None:
        before = len(self._problems)
        read = read_table(AnthropicTable, table, path, self._problems)
        if read is None:
            return None
        api_key = self._secret(read.api_key, f"{path}.api_key")
        if read.auth == "client":
            self._require_no_key_of_ours(read, path)
        elif not read.api_key and read.base_url == BASE_URL and not self._problems.at(f"{path}.api_key"):
            self._problems.mismatch(f"{path}.api_key", "nothing", "a reference to the secret, env:NAME or file:PATH")
        timeouts = self._timeouts(read.timeouts, path)
        wrong = len(self._problems) > before
        try:
            provider = Anthropic(
                name=name,
                api_key=api_key or ("unresolved" if wrong else None),  # built all the same, to judge its URL as well
                base_url=read.base_url,
                auth="x-api-key" if wrong else read.auth,
                timeouts=timeouts,
                trace_context=read.trace_context,
            )
        except ValueError as error:
            self._problems.add(f"{path}.base_url", str(error))
            return None
        return None if wrong else provider

    def _require_no_key_of_ours(self, read: AnthropicTable, path: str) -> None:
        """Where the client's own credential is passed through, neither the gateway's nor its callers' keys can be."""
        if read.api_key:
            self._problems.add(f"{path}.api_key", 'found one beside auth = "client"; allowed is one of the two')
        if self._keyed:
            self._problems.add(f"{path}.auth", 'found "client" beside [[keys]], which would be handed to that upstream')

    def _bedrock(self, name: str, table: dict[str, object], path: str) -> Bedrock | None:
        before = len(self._problems)
        read = read_table(BedrockTable, table, path, self._problems)
        if read is None:
            return None
        self._require("region", read.region, AWS_REGION_WORDS, path)
        model_ids = self._model_ids(read.model_ids, f"{path}.model_ids")
        guardrail = self._guardrail(read.guardrail, f"{path}.guardrail")
        credential = self._aws(read, path)
        self._require_together([option for option in AwsOptions.__annotations__ if option in table], path)
        timeouts = self._timeouts(read.timeouts, path)
        wrong = len(self._problems) > before
        try:
            provider = Bedrock(
                name=name,
                region=read.region or "us-east-1",  # built all the same, to judge its endpoint as well
                endpoint=read.endpoint or None,
                inference_profile=read.inference_profile,
                model_ids=model_ids,
                service_tier=read.service_tier,
                guardrail=guardrail,
                client_headers=read.client_headers,
                user_profiles=read.user_profiles,
                allow_betas=read.allow_betas,
                drop_fields=read.drop_fields,
                timeouts=timeouts,
                **(AwsOptions() if wrong else credential),
            )
        except ValueError as error:
            self._problems.add(f"{path}.endpoint" if str(error).startswith("endpoint") else path, str(error))
            return None
        return None if wrong else provider

    def _model_ids(self, given: dict[str, Any], path: str) -> dict[str, str]:
        right: dict[str, str] = {}
        for name, identifier in given.items():
            if name and isinstance(identifier, str) and is_identifier(identifier):
                right[name] = identifier
            else:
                self._problems.mismatch(joined(path, name), shown(identifier), "an id or ARN of a model on Bedrock")
        return right

    def _guardrail(self, given: dict[str, Any], path: str) -> tuple[str, str] | None:
        read = read_table(GuardrailTable, given, path, self._problems) if given else None
        return read and (read.id, str(read.version))

    def _aws(self, read: BedrockTable, path: str) -> AwsOptions:
        return {
            "profile": read.profile or None,
            "access_key": self._secret(read.access_key, f"{path}.access_key"),
            "secret_key": self._secret(read.secret_key, f"{path}.secret_key"),
            "session_token": self._secret(read.session_token, f"{path}.session_token"),
            "role_arn": read.role_arn or None,
            "external_id": read.external_id or None,
            "session_name": read.session_name or None,
            "bearer_token": self._secret(read.bearer_token, f"{path}.bearer_token"),
        }

    def _require_together(self, given: list[str], path: str) -> None:
        """What is said of a credential must be of one way to have it, and whole."""
        for option in given:
            if _NEEDS.get(option, option) not in given:
                self._problems.add(f"{path}.{option}", f"found one without {_NEEDS[option]}, which it needs")
        others = [option for option in given if option != "bearer_token"]
        if "bearer_token" in given and others:
            self._exclude("bearer_token", others[0], path)
        if "profile" in given and "access_key" in given:
            self._exclude("profile", "access_key", path)

    def _exclude(self, option: str, other: str, path: str) -> None:
        self._problems.add(f"{path}.{option}", f"found one beside {other}; allowed is one of the two")

    def _vertex(self, name: str, table: dict[str, object], path: str) -> Vertex | None:
        before = len(self._problems)
        read = read_table(VertexTable, table, path, self._problems)
        if read is None:
            return None
        self._require("project", read.project, PROJECT_WORDS, path)
        file = self._key_file(read.service_account_file, f"{path}.service_account_file")
        timeouts = self._timeouts(read.timeouts, path)
        wrong = len(self._problems) > before
        try:
            provider = Vertex(
                name=name,
                project=read.project or "unknown",  # built all the same, to judge its URL as well
                region=read.region,
                count_region=read.count_region or None,
                base_url=read.base_url or None,
                service_account_file=file,
                quota_project=read.quota_project or None,
                timeouts=timeouts,
                allow_betas=read.allow_betas,
                drop_fields=read.drop_fields,
            )
        except ValueError as error:
            self._problems.add(f"{path}.base_url" if str(error).startswith("base_url") else path, str(error))
            return None
        return None if wrong else provider

    def _key_file(self, name: str, path: str) -> Path | None:
        """The file with a service account's key, if there is one that can be used."""
        if not name:
            return None
        file = self._references.path(name)
        try:
            GoogleCredential(service_account_file=file)
        except OptionError as error:
            self._problems.add(path, f"the file {error.problem}")
            return None
        return file

    def _require(self, key: str, value: str, words: str, path: str) -> None:
        if not value and not self._problems.at(f"{path}.{key}"):
            self._problems.mismatch(f"{path}.{key}", "nothing", words)

    def _secret(self, reference: str, path: str) -> Secret | None:
        return self._references.resolve(reference, path, self._problems) if reference else None

    def _timeouts(self, table: dict[str, Any], path: str) -> Timeouts:
        read = read_table(TimeoutsTable, table, f"{path}.timeouts", self._problems) or TimeoutsTable()
        return Timeouts(read.connect, read.first_byte, read.silence)
