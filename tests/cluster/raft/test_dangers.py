"""The seventeen dangers of agreement by PySyncObj (the design lists them), and who looks at each.

Each has tests in which the stock library fails, and tests in which ours does not; a mutant of
`support.raft_mutants` is the library's own behaviour in place of one of our rules.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.raft_mutants import MUTANTS

TESTS = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Danger:
    """stock, ours: names of tests. mutants: rules without which ours fails as stock does. sound:
    why there is no test in which stock fails.
    """

    what: str
    stock: tuple[str, ...]
    ours: tuple[str, ...]
    mutants: tuple[str, ...] = ()
    sound: str = ""


DANGERS = {
    1: Danger(
        "all voters killed under load, with eager compaction",
        ("test_stock_loses_acknowledged_commands_when_all_are_killed",),
        ("test_no_acknowledged_command_is_lost_when_all_voters_are_killed",),
    ),
    2: Danger(
        "crash points, torn ends, flipped bits",
        (
            "test_stock_cannot_start_on_a_torn_journal",
            "test_stock_takes_a_flipped_bit_for_the_truth",
            "test_stock_loses_what_came_after_a_dump_whose_journal_was_not_yet_cut",
        ),
        (
            "test_a_torn_end_is_cut_at_every_byte",
            "test_a_flipped_bit_before_the_end_is_reported_and_nothing_is_cut",
            "test_power_lost_at_any_step_leaves_one_of_the_states_between",
            "test_ours_keeps_what_came_after_a_snapshot",
        ),
    ),
    3: Danger(
        "a vote, acknowledgement or entry that leaves before it is durable",
        ("test_stock_votes_and_acknowledges_without_one_fsync",),
        ("test_a_schedule_is_clean", "test_a_voter_alone_answers_after_its_fsync"),
        ("sent before fsync",),
    ),
    4: Danger(
        "delays, cuts, repeats, restarts, power losses in any order",
        ("test_the_checkers_notice_what_the_guard_prevents",),
        ("test_a_schedule_is_clean", "test_many_schedules_are_clean"),
        ("none of our rules",),
    ),
    5: Danger(
        "a deposed leader with pending commands rejoins by snapshot",
        ("test_a_chunk_of_a_snapshot_commits_nothing",),
        ("test_a_chunk_of_a_snapshot_commits_nothing", "test_a_late_snapshot_takes_nothing_back"),
        ("a snapshot's chunk commits", "every snapshot is loaded"),
    ),
    6: Danger(
        "pipelined appends truncate entries that match",
        ("test_a_late_append_truncates_nothing_that_matches",),
        (
            "test_a_late_append_truncates_nothing_that_matches",
            "test_an_answer_names_what_matched_and_not_our_own_longer_end",
        ),
        ("matching entries are truncated", "an answer names our own longer end"),
    ),
    7: Danger(
        "failover after a quiet hour",
        ("test_the_stock_library_loses_the_first_message_after_a_quiet_time",),
        (
            "test_an_idle_leader_that_dies_is_replaced_by_one_candidacy",
            "test_an_idle_link_is_pinged_and_its_first_message_arrives",
        ),
    ),
    8: Danger(
        "a long isolation, and the way back",
        ("test_stock_waits_for_a_connect_as_long_as_the_kernel_does",),
        (
            "test_an_isolated_leader_stops_to_lead_and_a_healed_one_follows_soon",
            "test_a_black_hole_is_given_up_after_a_second",
            "test_a_leader_that_does_not_fit_begins_behind_what_is_committed",
        ),
    ),
    9: Danger(
        "a cut between the leader and one other",
        (),
        (
            "test_a_cut_between_the_leader_and_one_other_stops_no_writes",
            "test_a_stale_leader_is_told_and_steps_down_at_once",
            "test_who_hears_a_leader_helps_nobody_to_depose_it",
        ),
        sound="the audit saw no failure of the stock library here",
    ),
    10: Danger(
        "new addresses, black holes, slow names, absent peers",
        ("test_stock_resolves_names_in_the_thread_that_commits",),
        (
            "test_a_peer_that_comes_back_elsewhere_is_found",
            "test_a_peer_that_started_anew_elsewhere_is_found_before_its_old_address_is_dead",
            "test_a_slow_resolver_and_a_black_hole_delay_nobody_else",
            "test_a_voter_that_vanished_comes_back_with_another_address",
            "test_a_voter_that_is_gone_and_a_name_server_that_is_slow_stop_nobody",
        ),
    ),
    11: Danger(
        "an apply or a callback that raises",
        (
            "test_stock_applies_an_entry_twice_where_a_callback_raises",
            "test_stock_runs_an_apply_that_raises_again_with_each_tick",
        ),
        (
            "test_a_callback_that_raises_applies_nothing_twice",
            "test_an_apply_that_raises_stops_the_member_rather_than_blocking_it_for_ever",
        ),
    ),
    12: Danger(
        "a forwarded command that is lost",
        ("test_stock_never_answers_a_forwarded_command_that_was_lost",),
        (
            "test_an_unanswered_proposal_is_unknown_and_not_refused",
            "test_a_repeated_request_is_done_once",
        ),
    ),
    13: Danger(
        "strangers",
        (
            "test_the_stock_library_runs_a_strangers_code",
            "test_stock_obeys_a_stranger",
            "test_stock_keeps_whatever_a_stranger_announces",
        ),
        (
            "test_bytes_of_a_stranger_reach_no_decoder",
            "test_an_oversized_frame_is_refused_before_it_is_read",
            "test_a_certificate_of_another_authority_is_refused",
            "test_a_certificate_of_another_name_is_refused",
            "test_a_malformed_message_is_none",
        ),
    ),
    14: Danger(
        "a voter whose disk was wiped",
        ("test_stock_forgets_with_a_wiped_disk",),
        ("test_a_wiped_voter_gives_nothing_away", "test_an_empty_disk_learns_before_it_votes"),
        ("a learner votes",),
    ),
    15: Danger(
        "a leader that was stopped, or that nobody hears",
        ("test_stock_leads_on_for_half_a_minute_when_nobody_hears_it",),
        (
            "test_a_leader_that_wakes_up_is_none_any_more",
            "test_nobody_is_answered_without_the_lease",
            "test_an_awaited_write_of_another_epoch_is_unknown",
        ),
    ),
    16: Danger(
        "work that holds Python's lock",
        ("test_stock_does_not_tick_while_somebody_else_holds_the_lock",),
        ("test_work_that_holds_the_lock_of_the_data_process_causes_no_election",),
    ),
    17: Danger(
        "an upgrade, and a downgrade",
        ("test_stock_takes_one_command_for_another_after_an_upgrade",),
        (
            "test_a_snapshot_of_the_first_version_is_read",
            "test_a_snapshot_of_a_newer_version_is_refused_by_name",
            "test_a_newer_format_is_refused_by_name",
        ),
    ),
}


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Names of all tests of the cluster."""
    files = [*TESTS.glob("cluster/**/test_*.py"), *TESTS.glob("chaos/test_*.py")]
    trees = [ast.parse(path.read_text()) for path in files]
    return {
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("number", range(1, 18))
def test_a_danger_has_its_tests(number: int, known: set[str]) -> None:
    danger = DANGERS[number]
    assert {*danger.stock, *danger.ours} <= known
    assert danger.ours
    assert danger.stock or danger.sound
    assert set(danger.mutants) <= MUTANTS.keys()


def test_each_rule_without_which_something_breaks_belongs_to_a_danger() -> None:
    named = {name for danger in DANGERS.values() for name in danger.mutants}
    elsewhere = {"acknowledgements of older terms count", "a vote counts twice"}
    assert named | elsewhere == MUTANTS.keys()
