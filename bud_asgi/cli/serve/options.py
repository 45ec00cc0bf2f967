"""The options of `serve`, and whether they fit each other and the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from bud_asgi.cli.serve.metrics import MetricsAddress, check_metrics
from bud_asgi.cli.serve.status import check_status
from bud_asgi.config import ConfigError, Problem, Settings, divide_limits
from bud_asgi.config.problems import render
from bud_asgi.options import url_shown
from bud_asgi.providers import Bedrock

WORKER_OPTIONS = "BUD_ASGI_WORKER_OPTIONS"
"""The variable with the options of the command for its workers."""

ACCESS_LOG_FORMATS = ("auto", "json", "text")
"""`auto`: text for people if stdout is a terminal, otherwise JSON."""

LOG_LEVELS = ("critical", "error", "warning", "info", "debug")


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `bud-asgi serve`.

    `config` is the file, `None` for the environment. `drain_timeout` and `keep_alive` are seconds. `limit_connections`
    is `None` for the default of the process, `limit_concurrency` for no limit; they are for each worker. `uds` or `fd`
    take the place of `host` and `port`. `ssl_keyfile_password` is a reference. `watch`: reload when a file changes.
    Without a `metrics_port` there are no metrics. `status` is the path of the status page, `None` for none, and
    `status_key` has references to the keys for it.
    """

    config: str | None
    host: str
    port: int
    workers: int
    per_worker_limits: bool
    log_level: str
    forwarded_allow_ips: str | None
    drain_timeout: int
    keep_alive: int
    limit_connections: int | None
    limit_concurrency: int | None
    access_log_format: str = "auto"
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    status: str | None = None
    status_key: tuple[str, ...] = ()
    uds: str | None = None
    fd: int | None = None
    root_path: str = ""
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    watch: bool = False

    @property
    def metrics(self) -> MetricsAddress | None:
        """Where metrics are served."""
        return None if self.metrics_port is None else MetricsAddress(self.metrics_host, self.metrics_port)


def check_options(settings: Settings, options: ServeOptions) -> None:
    """Check the command's options against the settings. Raises `ConfigError`."""
    problems = [
        *_check_workers(settings, options),
        *check_status(options.status, options.status_key, options.workers),
        *check_metrics(options.metrics),
    ]
    has_address = options.uds is None and options.fd is None
    for provider in settings.providers if has_address else ():
        url = urlsplit(provider.base_url)
        if url.port == options.port and url.hostname in {options.host, "localhost", "127.0.0.1", "::1"}:
            key = "endpoint" if isinstance(provider, Bedrock) else "base_url"
            path = render(("providers", provider.name, key))
            problems.append(
                Problem(settings.source, path, f"{url_shown(provider.base_url)} is the address of this server itself")
            )
    if problems:
        raise ConfigError(problems)


def _check_workers(settings: Settings, options: ServeOptions) -> Sequence[Problem]:
    """The problems that limits have with several workers."""
    if options.workers == 1 or not settings.has_limits:
        return ()
    if options.per_worker_limits:
        try:
            divide_limits(settings, options.workers)
        except ConfigError as error:
            return error.problems
    elif settings.store is None:
        message = (
            "each worker would count the limits on its own: add a [store] to the file, which all workers share,"
            " or divide the limits among them with --per-worker-limits"
        )
        return [Problem("", "--workers", message)]
    return ()
