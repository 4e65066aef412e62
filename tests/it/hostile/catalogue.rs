//! The catalogue of bad inputs: every row, and what holds it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Each row with the tests that hold it. `SECURITY.md` says of a row without any why, and of others what
/// their tests leave open.
const CATALOGUE: &[(&str, &[&str])] = &[
    // HTTP/1 framing
    (
        "H01",
        &["framing_that_can_be_read_in_two_ways_hides_no_second_request"],
    ),
    (
        "H02",
        &["framing_that_can_be_read_in_two_ways_hides_no_second_request"],
    ),
    (
        "H03",
        &["framing_that_can_be_read_in_two_ways_hides_no_second_request"],
    ),
    (
        "H05",
        &["framing_that_can_be_read_in_two_ways_hides_no_second_request"],
    ),
    (
        "H06",
        &["framing_that_can_be_read_in_two_ways_hides_no_second_request"],
    ),
    (
        "H08",
        &["framing_that_can_be_read_in_two_ways_hides_no_second_request"],
    ),
    (
        "H09",
        &["framing_that_can_be_read_in_two_ways_hides_no_second_request"],
    ),
    (
        "H10",
        &[
            "a_body_is_judged_by_its_bytes_and_its_length",
            "an_announced_length_is_refused_unread_and_never_invited",
        ],
    ),
    (
        "H12",
        &["framing_that_can_be_read_in_two_ways_hides_no_second_request"],
    ),
    ("H13", &["chunks_that_are_none_keep_nothing"]),
    ("H14", &["chunks_that_are_none_keep_nothing"]),
    (
        "H15",
        &[
            "chunks_that_are_none_keep_nothing",
            "a_body_that_dribbles_is_408",
        ],
    ),
    ("H17", &["chunks_that_are_none_keep_nothing"]),
    ("H18", &["heads_that_are_none_are_refused"]),
    ("H19", &["heads_that_are_none_are_refused"]),
    ("H20", &["heads_that_are_none_are_refused"]),
    ("H21", &["heads_that_are_none_are_refused"]),
    ("H22", &["heads_that_are_none_are_refused"]),
    (
        "H23",
        &[
            "methods_upgrades_and_expectations_are_answered_plainly",
            "any_method_but_post_is_405_and_the_connection_stays",
        ],
    ),
    (
        "H24",
        &["methods_upgrades_and_expectations_are_answered_plainly"],
    ),
    ("H25", &["heads_that_are_none_are_refused"]),
    (
        "H28",
        &["methods_upgrades_and_expectations_are_answered_plainly"],
    ),
    (
        "H29",
        &[
            "methods_upgrades_and_expectations_are_answered_plainly",
            "a_body_that_is_welcome_is_invited",
        ],
    ),
    ("H30", &["a_body_is_judged_by_its_bytes_and_its_length"]),
    ("H31", &["a_body_is_judged_by_its_bytes_and_its_length"]),
    ("H32", &["a_body_is_judged_by_its_bytes_and_its_length"]),
    ("H34", &["a_body_is_judged_by_its_bytes_and_its_length"]),
    // HTTP/2
    ("H40", &["floods_of_frames_end_their_own_connection"]),
    ("H42", &["floods_of_frames_end_their_own_connection"]),
    ("H43", &["floods_of_frames_end_their_own_connection"]),
    (
        "H44",
        &[
            "floods_of_frames_end_their_own_connection",
            "floods_of_harmless_frames_stop_nothing",
        ],
    ),
    (
        "H46",
        &[
            "what_breaks_the_protocol_is_refused",
            "streams_that_drip_have_no_more_memory_than_all_may_hold",
        ],
    ),
    ("H47", &["what_breaks_the_protocol_is_refused"]),
    ("H48", &["what_breaks_the_protocol_is_refused"]),
    // TLS
    ("T01", &["old_versions_and_weak_suites_get_an_alert"]),
    ("T02", &["old_versions_and_weak_suites_get_an_alert"]),
    (
        "T03",
        &["a_client_that_names_no_server_or_another_is_shown_the_certificate"],
    ),
    ("T05", &["strange_but_lawful_hellos_are_taken"]),
    (
        "T07",
        &[
            "old_versions_and_weak_suites_get_an_alert",
            "no_ticket_allows_early_data",
        ],
    ),
    (
        "T09",
        &["a_forged_record_within_a_body_ends_the_connection_and_keeps_nothing"],
    ),
    (
        "T10",
        &["a_client_without_a_good_certificate_gets_an_alert_and_is_not_heard"],
    ),
    ("T11", &["an_expired_certificate_is_still_served"]),
    // Signature and timestamp
    ("A01", &["a_signature_that_is_none_is_401"]),
    ("A02", &["a_signature_that_is_none_is_401"]),
    ("A03", &["a_good_signature_is_taken_however_it_is_written"]),
    (
        "A04",
        &[
            "a_signature_that_is_none_is_401",
            "a_good_signature_is_taken_however_it_is_written",
        ],
    ),
    ("A06", &["a_signature_that_is_none_is_401"]),
    ("A09", &["an_untimely_notification_is_never_refused"]),
    (
        "A10",
        &[
            "a_good_signature_is_taken_however_it_is_written",
            "the_same_bytes_again_are_answered_alike_and_delivered_once",
        ],
    ),
    ("A11", &["a_good_signature_is_taken_however_it_is_written"]),
    (
        "A13",
        &[
            "a_signature_that_is_none_is_401",
            "a_good_signature_is_taken_however_it_is_written",
        ],
    ),
    ("A14", &["a_good_signature_is_taken_however_it_is_written"]),
    (
        "A15",
        &[
            "what_no_secret_signed_is_401_and_kept_in_the_ring_alone",
            "good_ones_are_answered_in_a_flood_of_forged_ones",
        ],
    ),
    (
        "A16",
        &["a_new_secret_works_and_a_removed_one_stops_working"],
    ),
    // JSON and schema
    (
        "J01",
        &["what_is_json_is_passed_through_and_what_is_not_is_400"],
    ),
    (
        "J03",
        &["what_is_json_is_passed_through_and_what_is_not_is_400"],
    ),
    (
        "J05",
        &[
            "the_cases_of_the_json_test_suite_are_told_apart",
            "what_is_json_is_passed_through_and_what_is_not_is_400",
        ],
    ),
    ("J07", &["large_and_strange_bodies_are_opaque_bytes"]),
    ("J09", &["large_and_strange_bodies_are_opaque_bytes"]),
    ("J10", &["a_link_is_never_followed"]),
    ("J11", &["large_and_strange_bodies_are_opaque_bytes"]),
    (
        "J12",
        &[
            "a_schema_that_reaches_outside_or_backtracks_does_not_compile",
            "a_schema_that_refers_to_itself_or_nests_quantifiers_ends",
        ],
    ),
    (
        "J13",
        &[
            "a_schema_that_reaches_outside_or_backtracks_does_not_compile",
            "a_schema_that_refers_to_itself_or_nests_quantifiers_ends",
        ],
    ),
    (
        "J14",
        &["reloads_under_load_fail_no_request_and_mix_no_versions"],
    ),
    // Config
    (
        "C01",
        &[
            "what_is_no_config_file_is_refused_in_a_clear_sentence",
            "a_device_that_never_ends_is_refused_too",
            "what_cannot_be_a_config_never_replaces_one",
        ],
    ),
    (
        "C02",
        &["invalid_examples_have_exactly_the_problems_they_announce"],
    ),
    (
        "C03",
        &[
            "aliases_count_in_full",
            "nesting_has_a_limit_also_through_aliases",
        ],
    ),
    (
        "C05",
        &["invalid_examples_have_exactly_the_problems_they_announce"],
    ),
    (
        "C06",
        &["invalid_examples_have_exactly_the_problems_they_announce"],
    ),
    (
        "C07",
        &[
            "invalid_examples_have_exactly_the_problems_they_announce",
            "link_local_and_metadata_are_forbidden_in_every_form",
        ],
    ),
    ("C09", &["each_part_that_is_wrong_is_named"]),
    (
        "C10",
        &["a_change_that_needs_a_restart_is_refused_as_a_whole_and_named"],
    ),
    (
        "C11",
        &["a_removed_target_holds_its_deliveries_until_it_comes_back"],
    ),
    // Targets
    (
        "G01",
        &[
            "no_connection_has_its_reason",
            "a_hostile_resolver_leads_nowhere_and_holds_up_no_other_target",
        ],
    ),
    (
        "G02",
        &[
            "a_hostile_resolver_leads_nowhere_and_holds_up_no_other_target",
            "link_local_and_metadata_are_forbidden_in_every_form",
        ],
    ),
    (
        "G03",
        &[
            "broken_silent_and_senseless_answers_are_told_apart",
            "an_answer_without_end_keeps_its_meaning_and_costs_its_connection",
        ],
    ),
    ("G06", &["answers_mean_what_the_contract_says"]),
    ("G07", &["a_redirect_is_not_followed"]),
    (
        "G08",
        &["each_status_is_tried_again_or_given_up_for_its_reason"],
    ),
    (
        "G09",
        &["each_status_is_tried_again_or_given_up_for_its_reason"],
    ),
    ("G10", &["answers_mean_what_the_contract_says"]),
    (
        "G11",
        &["each_status_is_tried_again_or_given_up_for_its_reason"],
    ),
    (
        "G12",
        &["retry_after_is_seconds_or_a_date_and_garbage_is_no_wish"],
    ),
    (
        "G14",
        &["tls_checks_the_certificate_and_speaks_http_2_where_it_is_offered"],
    ),
    (
        "G15",
        &[
            "each_of_the_codes_means_what_the_contract_says_in_trailers_and_without",
            "what_a_target_asks_us_to_wait_is_a_floor",
            "a_server_that_breaks_off_is_asked_again",
            "a_long_answer_is_read_past_and_its_status_counts",
        ],
    ),
    (
        "G17",
        &["a_target_that_answers_again_is_not_buried_under_what_waited"],
    ),
    (
        "G18",
        &[
            "a_dead_and_a_silent_target_do_not_hold_back_another",
            "a_target_that_flaps_or_is_half_dead_gets_everything_and_others_once",
        ],
    ),
    ("G19", &[]),
    // Disk and storage
    (
        "Q01",
        &[
            "a_full_disk_refuses_delivers_what_it_holds_and_heals",
            "a_spent_quota_is_a_full_disk_and_heals",
            "what_a_start_cannot_make_or_sync_is_told_and_the_next_one_makes_it",
            "a_sync_that_fails_once_is_no_200_and_ends_the_relay_with_74",
        ],
    ),
    (
        "Q02",
        &[
            "without_inodes_a_relay_goes_on_and_none_starts_in_silence",
            "what_a_start_cannot_make_or_sync_is_told_and_the_next_one_makes_it",
        ],
    ),
    (
        "Q03",
        &[
            "a_disk_that_turns_read_only_ends_the_relay_and_no_200_is_false",
            "a_sync_that_fails_once_is_no_200_and_ends_the_relay_with_74",
            "a_sync_that_fails_while_draining_is_no_200_and_ends_the_relay_with_74",
            "a_sync_that_fails_in_a_checkpoint_ends_the_relay_with_74_and_loses_nothing",
            "a_read_that_fails_is_one_records_damage_and_ends_nothing",
        ],
    ),
    (
        "Q04",
        &[
            "a_disk_that_turns_read_only_ends_the_relay_and_no_200_is_false",
            "on_a_read_only_disk_none_starts_in_silence",
            "a_folder_that_may_not_be_entered_goes_on_until_the_relay_ends_and_none_starts_on_it",
            "on_an_immutable_file_none_starts_in_silence",
            "files_that_are_taken_away_refuse_what_is_new_and_deliver_what_is_owed",
            "a_database_that_is_cut_short_takes_nothing_more",
            "an_index_that_is_cut_short_costs_a_start_and_no_notification",
        ],
    ),
    (
        "Q07",
        &[
            "a_damaged_record_is_isolated_counted_and_told_and_the_others_are_delivered",
            "what_is_behind_the_last_whole_record_is_no_record",
            "a_database_that_is_not_ours_is_refused_and_left_as_it_is",
        ],
    ),
    (
        "Q09",
        &[
            "a_second_relay_on_one_spool_exits_74",
            "a_spool_on_what_goes_with_the_pod_is_warned_of",
        ],
    ),
    ("Q10", &[]),
    (
        "Q12",
        &["out_of_descriptors_those_who_are_in_are_served_and_newcomers_wait"],
    ),
    // Clock, signals, outputs, JetStream
    (
        "K01",
        &[
            "a_clock_that_jumps_stops_nothing_and_refuses_nobody",
            "a_retry_that_waits_when_the_clock_is_set_back_does_not_wait_for_the_clock",
            "a_clock_that_is_set_far_ahead_makes_dead_letters_and_loses_nothing",
            "a_clock_before_1970_trusts_no_target_and_ends_nothing",
            "arithmetic_at_the_ends_of_time_saturates",
        ],
    ),
    ("K03", &["arithmetic_at_the_ends_of_time_saturates"]),
    (
        "S01",
        &[
            "sigterm_finishes_what_is_in_hand_and_exits_0",
            "a_thousand_sighups_leave_nothing_behind",
            "signals_end_politely_at_once_or_not_at_all",
            "signals_that_end_nothing_disturb_no_load",
            "what_ends_a_relay_under_load_loses_nothing_that_was_answered_200",
        ],
    ),
    (
        "S02",
        &[
            "kill_loop_loses_nothing_that_was_acknowledged",
            "what_ends_a_relay_under_load_loses_nothing_that_was_answered_200",
            "a_relay_that_is_given_no_memory_ends_and_loses_nothing_that_was_answered_200",
        ],
    ),
    (
        "S04",
        &[
            "a_relay_starts_on_a_full_disk_and_delivers_what_it_holds",
            "a_relay_starts_on_a_long_backlog_and_takes_what_is_new",
        ],
    ),
    (
        "O02",
        &[
            "scrapers_that_hammer_hang_or_never_read_cost_the_sender_nothing",
            "nothing_that_a_stranger_sends_makes_a_series",
        ],
    ),
    ("N01", &[]),
    ("N02", &[]),
    ("N03", &[]),
    ("N04", &[]),
    ("N05", &[]),
];

const ROWS: usize = 107;

#[test]
fn every_row_is_held_by_a_test_or_told_in_security_md() {
    let ids: BTreeSet<_> = CATALOGUE.iter().map(|(id, _)| id).collect();
    assert_eq!((ids.len(), CATALOGUE.len()), (ROWS, ROWS), "each row once");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let told = fs::read_to_string(root.join("SECURITY.md")).expect("readable");
    let sources = crate::house::all_sources();
    for (id, tests) in CATALOGUE {
        assert!(
            !tests.is_empty() || told.contains(&format!("**{id}**")),
            "{id}"
        );
        for test in *tests {
            assert!(sources.contains(&format!("fn {test}(")), "{id}: {test}");
        }
    }
}
