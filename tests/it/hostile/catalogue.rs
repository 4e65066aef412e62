//! The catalogue of bad inputs: every row, and what holds it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Each row with the tests that hold it, its first beside it and the others below. `SECURITY.md` says of a row without any
/// why, and of others what their tests leave open.
const CATALOGUE: &str = "
# HTTP/1 framing
H01 framing_that_can_be_read_in_two_ways_hides_no_second_request
H02 framing_that_can_be_read_in_two_ways_hides_no_second_request
H03 framing_that_can_be_read_in_two_ways_hides_no_second_request
H05 framing_that_can_be_read_in_two_ways_hides_no_second_request
H06 framing_that_can_be_read_in_two_ways_hides_no_second_request
H08 framing_that_can_be_read_in_two_ways_hides_no_second_request
H09 framing_that_can_be_read_in_two_ways_hides_no_second_request
H10 a_body_is_judged_by_its_bytes_and_its_length
    an_announced_length_is_refused_unread_and_never_invited
H12 framing_that_can_be_read_in_two_ways_hides_no_second_request
H13 chunks_that_are_none_keep_nothing
H14 chunks_that_are_none_keep_nothing
H15 chunks_that_are_none_keep_nothing
    a_body_that_dribbles_is_408
H17 chunks_that_are_none_keep_nothing
H18 heads_that_are_none_are_refused
H19 heads_that_are_none_are_refused
H20 heads_that_are_none_are_refused
H21 heads_that_are_none_are_refused
H22 heads_that_are_none_are_refused
H23 methods_upgrades_and_expectations_are_answered_plainly
    any_method_but_post_is_405_and_the_connection_stays
H24 methods_upgrades_and_expectations_are_answered_plainly
H25 heads_that_are_none_are_refused
H28 methods_upgrades_and_expectations_are_answered_plainly
H29 methods_upgrades_and_expectations_are_answered_plainly
    a_body_that_is_welcome_is_invited
H30 a_body_is_judged_by_its_bytes_and_its_length
H31 a_body_is_judged_by_its_bytes_and_its_length
H32 a_body_is_judged_by_its_bytes_and_its_length
H34 a_body_is_judged_by_its_bytes_and_its_length

# HTTP/2
H40 floods_of_frames_end_their_own_connection
H42 floods_of_frames_end_their_own_connection
H43 floods_of_frames_end_their_own_connection
H44 floods_of_frames_end_their_own_connection
    floods_of_harmless_frames_stop_nothing
H46 what_breaks_the_protocol_is_refused
    streams_that_drip_have_no_more_memory_than_all_may_hold
H47 what_breaks_the_protocol_is_refused
H48 what_breaks_the_protocol_is_refused

# TLS
T01 old_versions_and_weak_suites_get_an_alert
T02 old_versions_and_weak_suites_get_an_alert
T03 a_client_that_names_no_server_or_another_is_shown_the_certificate
T05 strange_but_lawful_hellos_are_taken
T07 old_versions_and_weak_suites_get_an_alert
    no_ticket_allows_early_data
T09 a_forged_record_within_a_body_ends_the_connection_and_keeps_nothing
T10 a_client_without_a_good_certificate_gets_an_alert_and_is_not_heard
    who_may_come_is_decided_by_the_authorities_of_now
T11 an_expired_certificate_is_still_served
    a_certificate_near_or_past_its_end_is_served_and_a_disordered_chain_is_told

# Signature and timestamp
A01 a_signature_that_is_none_is_401
A02 a_signature_that_is_none_is_401
A03 a_good_signature_is_taken_however_it_is_written
A04 a_signature_that_is_none_is_401
    a_good_signature_is_taken_however_it_is_written
A06 a_signature_that_is_none_is_401
A09 an_untimely_notification_is_never_refused
A10 a_good_signature_is_taken_however_it_is_written
    the_same_bytes_again_are_answered_alike_and_delivered_once
A11 a_good_signature_is_taken_however_it_is_written
A13 a_signature_that_is_none_is_401
    a_good_signature_is_taken_however_it_is_written
A14 a_good_signature_is_taken_however_it_is_written
A15 what_no_secret_signed_is_401_and_kept_in_the_ring_alone
    good_ones_are_answered_in_a_flood_of_forged_ones
A16 a_secret_is_the_old_one_or_the_new_and_one_that_goes_stays

# JSON and schema
J01 what_is_json_is_passed_through_and_what_is_not_is_400
J03 what_is_json_is_passed_through_and_what_is_not_is_400
J05 the_cases_of_the_json_test_suite_are_told_apart
    what_is_json_is_passed_through_and_what_is_not_is_400
J07 large_and_strange_bodies_are_opaque_bytes
J09 large_and_strange_bodies_are_opaque_bytes
J10 a_link_is_never_followed
J11 large_and_strange_bodies_are_opaque_bytes
J12 a_schema_that_reaches_outside_or_has_no_end_is_refused
    a_schema_that_another_engine_would_not_end_on_is_answered_by_at_once
J13 a_schema_that_reaches_outside_or_has_no_end_is_refused
    a_schema_that_another_engine_would_not_end_on_is_answered_by_at_once
J14 a_body_is_judged_by_the_old_schema_or_the_new_and_one_that_goes_stays
    reloads_under_load_fail_no_request_and_mix_no_versions

# Config
C01 what_cannot_be_a_config_never_replaces_one
    what_is_no_file_that_can_be_read_replaces_no_config
    every_invalid_example_is_refused_by_a_relay_that_runs_and_by_one_that_starts
C02 every_invalid_example_is_refused_by_a_relay_that_runs_and_by_one_that_starts
C03 what_cannot_be_a_config_never_replaces_one
    every_invalid_example_is_refused_by_a_relay_that_runs_and_by_one_that_starts
C05 every_invalid_example_is_refused_by_a_relay_that_runs_and_by_one_that_starts
    a_change_out_of_bounds_is_refused_and_a_doubtful_one_taken_and_told
C06 every_invalid_example_is_refused_by_a_relay_that_runs_and_by_one_that_starts
    a_change_out_of_bounds_is_refused_and_a_doubtful_one_taken_and_told
C07 every_invalid_example_is_refused_by_a_relay_that_runs_and_by_one_that_starts
    a_change_out_of_bounds_is_refused_and_a_doubtful_one_taken_and_told
    where_a_name_leads_is_looked_at_for_each_connection
C09 a_pair_that_nobody_can_serve_with_is_refused_and_the_old_one_stays
    a_certificate_near_or_past_its_end_is_served_and_a_disordered_chain_is_told
    every_invalid_example_is_refused_by_a_relay_that_runs_and_by_one_that_starts
C10 a_change_out_of_bounds_is_refused_and_a_doubtful_one_taken_and_told
C11 a_target_that_goes_changes_its_name_or_its_patience_loses_nothing_that_waits

# Targets
G01 what_cannot_be_reached_is_tried_again_within_the_time_to_connect
    a_hostile_resolver_leads_nowhere_and_holds_up_no_other_target
G02 a_hostile_resolver_leads_nowhere_and_holds_up_no_other_target
    link_local_and_metadata_are_forbidden_in_every_form
G03 a_target_that_is_silent_or_drips_costs_an_attempt_its_time_and_nothing_else
    an_answer_that_never_ends_or_unpacks_to_much_costs_nothing
    a_target_that_reads_nothing_costs_an_attempt_its_time_and_nothing_else
G06 whatever_a_target_takes_with_is_delivered_once
G07 no_redirect_leads_anywhere
G08 a_refusal_is_tried_again_or_a_dead_letter_as_the_config_says
G09 a_refusal_is_tried_again_or_a_dead_letter_as_the_config_says
G10 a_refusal_is_tried_again_or_a_dead_letter_as_the_config_says
G11 a_refusal_is_tried_again_or_a_dead_letter_as_the_config_says
G12 what_retry_after_asks_for_is_when_the_next_attempt_is_due
G14 a_target_whose_tls_is_wrong_is_told_nothing_until_it_is_right
G15 each_code_of_a_real_server_is_retried_settled_or_given_up_on
    whatever_a_server_does_to_a_call_it_is_called_again_unless_it_has_it
    a_call_that_was_refused_unseen_is_made_once_more_at_once
    what_pushback_asks_for_is_when_the_next_call_is_due
G17 a_target_that_was_away_for_days_gets_old_and_new_in_turns_and_is_not_buried
G18 a_target_that_flaps_or_is_half_dead_gets_everything_and_others_once
G19

# Disk and storage
Q01 a_full_disk_refuses_delivers_what_it_holds_and_heals
    a_spent_quota_is_a_full_disk_and_heals
    what_a_start_cannot_make_or_sync_is_told_and_the_next_one_makes_it
    a_sync_that_fails_once_is_no_200_and_ends_the_relay_with_74
Q02 without_inodes_a_relay_goes_on_and_none_starts_in_silence
    what_a_start_cannot_make_or_sync_is_told_and_the_next_one_makes_it
Q03 a_disk_that_turns_read_only_ends_the_relay_and_no_200_is_false
    a_sync_that_fails_once_is_no_200_and_ends_the_relay_with_74
    a_sync_that_fails_while_draining_is_no_200_and_ends_the_relay_with_74
    a_sync_that_fails_in_a_checkpoint_ends_the_relay_with_74_and_loses_nothing
    a_read_that_fails_is_one_records_damage_and_ends_nothing
Q04 a_disk_that_turns_read_only_ends_the_relay_and_no_200_is_false
    on_a_read_only_disk_none_starts_in_silence
    a_folder_that_may_not_be_entered_goes_on_until_the_relay_ends_and_none_starts_on_it
    on_an_immutable_file_none_starts_in_silence
    files_that_are_taken_away_refuse_what_is_new_and_deliver_what_is_owed
    a_database_that_is_cut_short_takes_nothing_more
    an_index_that_is_cut_short_costs_a_start_and_no_notification
Q07 a_damaged_record_is_isolated_counted_and_told_and_the_others_are_delivered
    what_is_behind_the_last_whole_record_is_no_record
    a_database_that_is_not_ours_is_refused_and_left_as_it_is
Q09 a_second_relay_on_one_spool_exits_74
    a_spool_on_what_goes_with_the_pod_is_warned_of
Q10
Q12 out_of_descriptors_those_who_are_in_are_served_and_newcomers_wait

# Clock, signals, outputs, JetStream
K01 a_clock_that_jumps_stops_nothing_and_refuses_nobody
    a_retry_that_waits_when_the_clock_is_set_back_does_not_wait_for_the_clock
    a_clock_that_is_set_far_ahead_makes_dead_letters_and_loses_nothing
    a_clock_before_1970_trusts_no_target_and_ends_nothing
    arithmetic_at_the_ends_of_time_saturates
K03 a_wait_that_no_clock_can_count_is_the_longest_that_there_is
S01 sigterm_finishes_what_is_in_hand_and_exits_0
    a_thousand_sighups_leave_nothing_behind
    signals_end_politely_at_once_or_not_at_all
    signals_that_end_nothing_disturb_no_load
    what_ends_a_relay_under_load_loses_nothing_that_was_answered_200
S02 kill_loop_loses_nothing_that_was_acknowledged
    what_ends_a_relay_under_load_loses_nothing_that_was_answered_200
    a_relay_that_is_given_no_memory_ends_and_loses_nothing_that_was_answered_200
S04 a_relay_starts_on_a_full_disk_and_delivers_what_it_holds
    a_relay_starts_on_a_long_backlog_and_takes_what_is_new
O02 scrapers_that_hammer_hang_or_never_read_cost_the_sender_nothing
    nothing_that_a_stranger_sends_makes_a_series
N01
N02
N03
N04
N05
";

const ROWS: usize = 107;

fn rows() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut rows = Vec::new();
    let lines = CATALOGUE.lines().filter(|line| !line.starts_with('#'));
    for word in lines.flat_map(str::split_whitespace) {
        if word.starts_with(char::is_uppercase) {
            rows.push((word, Vec::new()));
        } else {
            let (_, tests) = rows.last_mut().expect("a row");
            tests.push(word);
        }
    }
    rows
}

/// A row without a test is told in `SECURITY.md`; of the tests of another each is one, and one at least says that it
/// is about that row, or has it in a table.
#[test]
fn every_row_is_held_by_a_test_or_told_in_security_md() {
    let rows = rows();
    let ids: BTreeSet<_> = rows.iter().map(|(id, _)| id).collect();
    assert_eq!((ids.len(), rows.len()), (ROWS, ROWS), "each row once");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let told = fs::read_to_string(root.join("SECURITY.md")).expect("readable");
    let files = crate::house::all_sources();
    let mut wrong = Vec::new();
    for (id, tests) in rows {
        let mut is_named = false;
        for test in &tests {
            match find(&files, test) {
                None => wrong.push(format!("{id}: no test is called {test}")),
                Some((file, text)) => {
                    is_named |= text.contains(id) || is_in_a_table(file, id);
                }
            }
        }
        if !tests.is_empty() && !is_named {
            wrong.push(format!("{id}: no test says that it is about it"));
        }
        if tests.is_empty() && !told.contains(&format!("**{id}**")) {
            wrong.push(format!("{id}: neither held nor told"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A string of it begins with the id.
fn is_in_a_table(file: &str, id: &str) -> bool {
    [format!("\"{id}\""), format!("\"{id}: ")]
        .iter()
        .any(|begin| file.contains(begin))
}

/// The file of a test, and the test from its attributes to its end.
fn find<'f>(files: &'f [String], test: &str) -> Option<(&'f str, &'f str)> {
    let name = format!("fn {test}(");
    let (file, begin) = files
        .iter()
        .find_map(|file| Some((file, file.find(&name)?)))?;
    let end = begin + file[begin..].find("\n}\n")?;
    let whole = &file[file[..begin].rfind("\n\n")?..end];
    let attributes = ["#[test]", "#[tokio::test"];
    let is_test = attributes.iter().any(|attribute| whole.contains(attribute));
    is_test.then_some((file, whole))
}
