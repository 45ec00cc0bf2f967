"""The targets of a request, in order: call one after the other, until one has answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from typing import NoReturn

from bud_asgi.attempt import Target
from bud_asgi.clock import Timing
from bud_asgi.disconnect import ActiveRequest
from bud_asgi.exchange import Exchange
from bud_asgi.failover import LOADS_UPSTREAMS, MAX_ATTEMPTS, Failure, error_to_show, may_try_next
from bud_asgi.http import HttpClient
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.thinking import is_signature_refusal, without_thinking
from bud_asgi.providers.threads import MAX_INLINE, start_thread
from bud_asgi.routing import Fleet
from bud_asgi.upstream_call import Run, UpstreamCall, Upstreams, abandon, begin, deliver, new_call


async def run_attempts(
    request: ActiveRequest, targets: Sequence[Target], upstreams: Upstreams, client: HttpClient, timing: Timing
) -> None:
    """Try the targets in order until one has answered, and deliver its reply.

    A failure before a reply is committed is followed by the next target where `may_try_next` allows it, a refusal of
    thinking blocks by the same target without them. Raises the most useful `GatewayError` of the attempts. Cancelled,
    the upstream call is aborted at once.
    """
    exchange = request.exchange
    streams = exchange.decoded_request.stream
    if streams:
        request.response.enable_pings()
    run = Run(request, upstreams, client, timing, [], streams)
    in_turn = iter(targets) if len(targets) == 1 else _in_turn(targets, exchange, upstreams.fleet)
    call: UpstreamCall | None = new_call(run, next(in_turn), has_next=len(targets) > 1)
    try:
        while call is not None:
            try:
                begun = await (_begin(run, call, in_turn) if call.has_next else begin(run, call))
                await deliver(run, begun)
            except GatewayError as error:
                _without_frames(error)
            else:
                return
            call = await _call_without_thinking(run, call) or _next_call(run, in_turn, len(targets))
    finally:
        _charge_one(run)
    _raise(error_to_show(run.failures, time.time()), run.failures)


def _next_call(run: Run, in_turn: Iterator[Target], number: int) -> UpstreamCall | None:
    """A call of the next one of `number` targets; `None` after the last, and after a failure that none may follow."""
    target = next(in_turn, None)
    if target is None or not _may_go_on(run):
        return None
    has_next = _targets_tried(run.request.exchange) + 1 < min(number, MAX_ATTEMPTS)
    return new_call(run, target, retried=run.failures[-1].end in LOADS_UPSTREAMS, has_next=has_next)


def _begin(run: Run, call: UpstreamCall, in_turn: Iterator[Target]) -> Coroutine[object, object, UpstreamCall]:
    """Begin a call, on a route with hedging also the next one; returns the call whose reply has begun."""
    hedge = getattr(run.request.exchange.route, "hedge", None)
    return begin(run, call) if hedge is None else _begin_hedged(run, call, in_turn, hedge)


def _may_go_on(run: Run) -> bool:
    on_unknown = getattr(run.request.exchange.route, "failover_on_unknown", True)
    return may_try_next(run.failures, run.upstreams.budget, time.monotonic(), run.deadline, on_unknown=on_unknown)


def _in_turn(targets: Sequence[Target], exchange: Exchange, fleet: Fleet) -> Iterator[Target]:
    """The targets in order, without those that have become full since they were arranged."""
    for target in targets:
        if not exchange.attempts or not fleet.health(target).is_full:
            yield target
        if _targets_tried(exchange) == MAX_ATTEMPTS:
            return


def _targets_tried(exchange: Exchange) -> int:
    """How many targets have been tried: one of them twice, if thinking blocks were left out."""
    return len(exchange.attempts) - bool(exchange.dropped)


async def _call_without_thinking(run: Run, call: UpstreamCall) -> UpstreamCall | None:
    """Another call of a target that has refused thinking blocks, without them; `None` if none is to be made.

    There is one at most: its request has no such blocks.
    """
    exchange = run.request.exchange
    allowed = getattr(exchange.route, "retry_without_thinking", False) and time.monotonic() < run.deadline
    if not allowed or not is_signature_refusal(run.failures[-1].error):
        return None
    request = exchange.decoded_request
    if len(request.body) <= MAX_INLINE:
        changed = without_thinking(request)
    else:
        thread = start_thread(lambda: without_thinking(request), "bud_asgi thinking")
        changed = await asyncio.wrap_future(thread)
    if changed is None:
        return None
    exchange.replace_request(*changed)
    target = next(attempt.target for attempt in exchange.attempts if attempt.end == "refused")
    return new_call(run, target, has_next=call.has_next)


async def _begin_hedged(run: Run, first: UpstreamCall, in_turn: Iterator[Target], after: float) -> UpstreamCall:
    """Begin a call, and one to the next target if that takes longer than `after` seconds.

    Returns the call that begins first; the other is cancelled. If both fail, raises the error of the one that fails
    last; in `run.failures`, a refusal of the request is then the last one, because it is final.
    """
    earlier = len(run.failures)
    calls = {asyncio.create_task(begin(run, first), name="bud_asgi call"): first}
    begun: UpstreamCall | None = None
    try:
        done, _ = await asyncio.wait(calls, timeout=after)
        if not done and (second := _second_call(run, in_turn)) is not None:
            calls[asyncio.create_task(begin(run, second), name="bud_asgi hedge")] = second
        begun = await _first_to_begin(set(calls))
    except GatewayError:
        run.failures[earlier:] = sorted(run.failures[earlier:], key=lambda failure: failure.end == "refused")
        raise
    else:
        attempts = run.request.exchange.attempts
        attempts.sort(key=lambda attempt: attempt is begun.attempt)  # the one that is delivered is the last
        return begun
    finally:
        for task, call in calls.items():
            if call is not begun:
                abandon(run, call, lost=begun is not None)
                task.add_done_callback(_retrieve)
                task.cancel()


def _second_call(run: Run, in_turn: Iterator[Target]) -> UpstreamCall | None:
    budget, now = run.upstreams.budget, time.monotonic()
    if now >= run.deadline or not budget.take(now):
        return None
    target = next(in_turn, None)
    if target is None:
        budget.give_back(now)
        return None
    return new_call(run, target, retried=True, has_next=True)


async def _first_to_begin(tasks: set[asyncio.Task[UpstreamCall]]) -> UpstreamCall:
    while True:
        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = task.exception()
            if error is None:
                return task.result()
            if not tasks or not isinstance(error, GatewayError):
                raise error
            _without_frames(error)


def _retrieve(task: asyncio.Task[UpstreamCall]) -> None:
    """Retrieve the exception of a task, or asyncio would log that it never was."""
    if not task.cancelled():
        task.exception()


def _charge_one(run: Run) -> None:
    """Charge the caller for one attempt: the one that was delivered, or else the last that may have been billed."""
    exchange = run.request.exchange
    paid = exchange.attempts[-1]
    if paid.usage is None and paid.end != "answered":
        paid = next((attempt for attempt in reversed(exchange.attempts) if attempt.usage is not None), paid)
    exchange.usage, paid.usage = paid.usage, None


def _without_frames(error: GatewayError) -> GatewayError:
    """Drop the tracebacks of an error and of its causes: they refer to frames that hold the body."""
    link: BaseException | None = error
    while link is not None and link.__traceback__ is not None:  # without one, it has been seen: chains may be circular
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def _raise(error: GatewayError, failures: list[Failure]) -> NoReturn:
    """Raise an error, and leave no reference to it in a frame of its own traceback: the cycle would keep the body."""
    failures.clear()
    try:
        raise error from error.__cause__
    finally:
        del error
