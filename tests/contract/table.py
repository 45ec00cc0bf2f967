"""The table of contents of the contract: what each row and rule asks, and which proxies bend it.

Rows are those of what Claude Code asks of a gateway (1 to 28, 31, 32 and 44 concern one in the Messages format), rules
are the fifteen that decide whether any client works with it.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction

import msgspec

from contract import bent_answers as answers
from contract import bent_replies as replies
from contract import bent_requests as requests
from contract import rows_replies, rows_requests, rows_routes
from contract.bending import Bender
from contract.line import Line

ROWS = frozenset((*range(1, 29), 31, 32, 44))
RULES = frozenset(range(1, 16))


class Check(msgspec.Struct, frozen=True):
    """One thing that clients rely on: the rows and rules that ask for it, and the benders that break it."""

    holds: Callable[[Line], None]
    rows: tuple[int, ...] = ()
    rules: tuple[int, ...] = ()
    before: tuple[Bender, ...] = ()
    behind: tuple[Bender, ...] = ()

    @property
    def name(self) -> str:
        """Rows, rules, and what is asked."""
        numbers = [*(f"row {row}" for row in self.rows), *(f"rule {rule}" for rule in self.rules)]
        return f"{', '.join(numbers)}: {self.holds.__name__.replace('_', ' ')}"

    def __repr__(self) -> str:
        return f"<{self.name}>"


_ERROR_BENDERS = (
    replies.gives_errors_its_shape,
    replies.rewords_errors,
    replies.rewrites_errors,
    replies.calls_every_error_200,
    replies.drops_retry_headers,
)
_STREAM_BENDERS = (
    replies.splits_at_every_line_break,
    replies.trims_the_end,
    replies.forgets_event_names,
    replies.rewrites_events,
    replies.eats_pings,
    replies.eats_comments,
    replies.eats_unknown_events,
    replies.pings_anywhere,
    replies.says_done,
)

CONTRACT: tuple[Check, ...] = (
    Check(
        rows_routes.hello_is_answered_fast_and_not_forwarded,
        rows=(1,),
        before=(answers.wants_a_credential_for_hello, answers.is_slow_to_say_hello),
    ),
    Check(rows_routes.routes_go_by_path_alone, rows=(2,), rules=(5,), before=(answers.routes_on_the_query_too,)),
    Check(
        rows_routes.tokens_are_counted_by_the_upstream,
        rows=(3,),
        before=(requests.counts_by_asking, requests.counts_as_a_request),
        behind=(requests.counts_by_asking,),
    ),
    Check(rows_routes.counting_costs_nothing, rows=(3,), before=(requests.counts_as_a_request,)),
    Check(
        rows_routes.either_form_of_the_credential_is_taken_everywhere,
        rows=(4,),
        rules=(2,),
        before=(requests.drops_the_bearer, requests.drops_the_key, answers.knows_no_models),
    ),
    Check(
        rows_requests.a_clients_own_login_passes_where_that_is_offered_and_is_401_elsewhere,
        rows=(5,),
        before=(requests.drops_the_bearer, requests.keeps_known_betas),
        behind=(requests.drops_the_betas, requests.drops_the_bearer),
    ),
    Check(
        rows_requests.the_version_goes_up_as_it_came,
        rows=(6,),
        rules=(1,),
        before=(requests.supplies_a_version, requests.drops_the_version),
        behind=(requests.makes_it_the_newest_version, requests.drops_the_version),
    ),
    Check(
        rows_requests.betas_go_up_byte_for_byte,
        rows=(6,),
        rules=(4,),
        before=(requests.respells_the_betas, requests.sorts_the_betas),
        behind=(requests.adds_a_beta, requests.drops_the_betas),
    ),
    Check(
        rows_requests.several_lines_of_betas_go_up_as_one,
        rows=(6,),
        rules=(4,),
        before=(requests.keeps_one_line_of_each,),
    ),
    Check(
        rows_requests.betas_never_seen_before_go_up,
        rows=(7,),
        before=(requests.keeps_known_betas,),
        behind=(requests.keeps_known_betas,),
    ),
    Check(
        rows_requests.unknown_fields_are_forwarded,
        rows=(8,),
        rules=(3,),
        before=(requests.drops_unknown_fields, requests.drops_unknown_blocks),
        behind=(requests.rewrites_the_body,),
    ),
    Check(rows_requests.a_warm_up_stays_one, rows=(8,), before=(requests.gives_tokens_to_a_warm_up,)),
    Check(
        rows_requests.headers_of_tomorrow_go_up,
        rows=(9,),
        before=(requests.keeps_known_headers,),
        behind=(requests.keeps_known_headers,),
    ),
    Check(
        rows_requests.the_system_goes_up_entry_by_entry,
        rows=(10,),
        rules=(14,),
        before=(requests.merges_the_system, requests.puts_a_system_before, requests.makes_the_system_a_string),
        behind=(requests.turns_the_system_around,),
    ),
    Check(
        rows_requests.messages_and_tools_go_up_in_their_order,
        rules=(14,),
        before=(requests.merges_turns,),
        behind=(requests.sorts_the_tools,),
    ),
    Check(
        rows_requests.only_the_model_is_replaced,
        rows=(11,),
        before=(requests.sorts_the_keys,),
        behind=(requests.rewrites_the_body, requests.sorts_the_keys),
    ),
    Check(rows_requests.the_clients_ids_are_written_down, rows=(12,), before=(requests.drops_client_ids,)),
    Check(
        rows_replies.each_event_is_passed_on_when_it_comes,
        rows=(13,),
        before=(replies.buffers_it_all, replies.buffers_four_kilobytes, replies.compresses),
        behind=(replies.buffers_it_all,),
    ),
    Check(
        rows_replies.pings_and_comments_are_passed_on_when_they_come,
        rows=(14,),
        rules=(10,),
        before=(replies.eats_pings, replies.eats_comments),
        behind=(replies.eats_pings,),
    ),
    Check(rows_replies.silence_is_filled_with_pings, rows=(15,), rules=(10,), before=(replies.eats_pings,)),
    Check(
        rows_replies.a_stream_that_breaks_ends_by_an_error,
        rows=(16,),
        rules=(9,),
        before=(replies.eats_error_events, replies.ends_cleanly_whatever_happens, replies.trims_the_end),
    ),
    Check(
        rows_replies.a_client_that_leaves_ends_the_call,
        rows=(17,),
        before=(replies.stays_when_the_client_leaves,),
        behind=(replies.stays_when_the_client_leaves,),
    ),
    Check(
        rows_replies.errors_pass_as_they_came,
        rows=(18,),
        rules=(11,),
        before=(
            *_ERROR_BENDERS,
            replies.calls_every_error_500,
            replies.tells_errors_as_events,
            replies.is_late_with_errors,
        ),
        behind=_ERROR_BENDERS,
    ),
    Check(
        rows_replies.a_reply_of_a_middlebox_becomes_an_error,
        rows=(19,),
        before=(replies.shows_its_own_page, replies.calls_every_error_200),
    ),
    Check(
        rows_routes.a_failed_stream_can_be_retried_as_a_message,
        rows=(20,),
        before=(requests.always_streams,),
        behind=(requests.always_streams,),
    ),
    Check(
        rows_routes.models_are_listed_at_once,
        rows=(21,),
        before=(answers.redirects_to_a_slash, answers.knows_no_models),
    ),
    Check(
        rows_routes.listed_names_are_those_to_ask_for,
        rows=(22,),
        before=(replies.strips_listed_prefixes, replies.lists_names_of_its_own),
    ),
    Check(
        rows_routes.names_of_the_gateways_own_are_routed,
        rows=(23,),
        before=(answers.knows_the_services_names, requests.drops_thinking),
    ),
    Check(
        rows_routes.names_that_clients_have_built_in_are_routed,
        rows=(24,),
        before=(requests.renames_every_model,),
        behind=(requests.renames_every_model,),
    ),
    Check(
        rows_requests.code_is_nothing_to_be_afraid_of,
        rows=(25,),
        before=(answers.filters_attacks, requests.escapes_markup),
    ),
    Check(rows_requests.bodies_up_to_the_limit_are_taken, rows=(26,), before=(answers.takes_a_megabyte,)),
    Check(
        rows_routes.nothing_is_redirected,
        rows=(27,),
        before=(answers.redirects_slashes,),
        behind=(answers.follows_redirects,),
    ),
    Check(
        rows_requests.fields_and_betas_go_up_as_pairs,
        rows=(28,),
        rules=(4,),
        before=(requests.keeps_known_betas, requests.drops_unknown_fields, requests.makes_tools_plain),
        behind=(requests.drops_the_betas,),
    ),
    Check(
        rows_replies.an_exhausted_budget_has_the_time_of_its_reset, rows=(31,), before=(replies.drops_retry_headers,)
    ),
    Check(
        rows_replies.headers_of_the_shared_account_are_not_forwarded,
        rows=(32,),
        before=(replies.tells_of_the_shared_account,),
    ),
    Check(
        rows_replies.equal_requests_are_two_requests,
        rows=(44,),
        before=(answers.remembers_answers, answers.joins_equal_questions),
        behind=(answers.remembers_answers, answers.joins_equal_questions),
    ),
    Check(
        rows_requests.only_our_credential_is_sent_to_the_upstream,
        rules=(2,),
        behind=(requests.passes_a_client_credential_up,),
    ),
    Check(rows_routes.the_body_alone_decides_whether_to_stream, rules=(6,), before=(requests.negotiates_on_accept,)),
    Check(rows_replies.streams_are_passed_on_as_bytes, rules=(7, 8), before=_STREAM_BENDERS, behind=_STREAM_BENDERS),
    Check(rows_replies.every_event_has_its_name, rules=(8,), before=(replies.forgets_event_names,)),
    Check(
        rows_routes.errors_of_the_gateway_are_in_the_envelope,
        rules=(12,),
        before=(replies.gives_errors_its_shape, replies.drops_retry_headers, replies.drops_the_request_id),
    ),
    Check(
        rows_routes.state_of_one_account_goes_to_no_other,
        rules=(13,),
        before=(requests.forgets_bound_state,),
    ),
    Check(
        rows_replies.the_last_reported_usage_counts,
        rules=(15,),
        before=(replies.renumbers_usage,),
        behind=(replies.renumbers_usage,),
    ),
)
"""All of it."""

NAMES: dict[object, str] = {
    bender: name
    for module in (answers, replies, requests)
    for name, bender in vars(module).items()
    if iscoroutinefunction(bender)
}
"""What each bender is called."""
