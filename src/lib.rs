//! suki-relay: a durable relay for webhook notifications that are posted once and never again.
//!
//! # The picture
//!
//! ```text
//!                  config.yaml ──► tree ──► check ──► Routing (one Arc, swapped at once)
//!                                                       │                │
//!                           INGRESS                     ▼                ▼            DISPATCH
//!  sender ─► accept ─► TLS ─► read ─► verify ─► schema ─► route   how to reach a target
//!             permit         bounded   HMAC               │                │
//!               │               │        │                ▼                ▼
//!               └── Rejection ◄─┴────────┘      ┌────────────────────────────┐
//!                      │ (reply.rs: the only    │           SPOOL            │
//!                      ▼  place with statuses)  │ accept ─► durable          │
//!                  4xx / 5xx           200 ◄────│ settle ◄──────────────┐    │
//!                                               │ due (after a start, too)   │
//!                                               └───────┬───────────────┼────┘
//!                                                       │ deliveries    │ settlement
//!                                                       ▼               │
//!                                                TargetWorker ─► attempt ─► outcome
//!                                                       ▲                   │ delivered / dead letter
//!                                                       └────── retry ◄─────┘
//! ```
//!
//! # The words
//!
//! * A *notification* is one verified POST: its exact bytes and headers.
//! * A *source* is where notifications come in: a path, its secrets, its schema.
//! * A *route* is a rule: notifications for which `when` holds go to these targets.
//! * A *target* is where they go out.
//! * A *delivery* is one notification owed to one target, over all its *attempts*; an attempt has an
//!   *outcome*.
//! * A *dead letter* is a delivery that gave up, kept until an operator acts.
//! * *Quarantine* holds authentic notifications that cannot be delivered as they are; beside it, a bounded
//!   *ring* holds requests that are *unverified*, should a secret have been set wrong.
//! * The *spool* is the durable store of all of these.
//!
//! # The invariants, and the tests that hold them
//!
//! 1. A 200 is sent only after the notification and the whole set of its deliveries are on stable storage,
//!    in one commit: held by `test:a_commit_that_is_late_is_500_and_goes_on`,
//!    `test:a_commit_that_a_standby_may_not_have_is_no_promise`,
//!    `test:a_setting_that_is_turned_off_under_a_relay_ends_its_promise`,
//!    `test:a_new_primary_that_would_not_keep_what_it_is_given_gets_nothing`,
//!    `test:power_cut_loses_nothing_that_was_acknowledged`,
//!    `test:what_a_kill_leaves_holds_all_that_was_promised`,
//!    `test:kill_loop_loses_nothing_that_was_acknowledged`.
//! 2. [`ingress`] and [`dispatch`] do not know each other; the spool is the only door between them: held by
//!    `test:no_room_imports_one_beside_or_above_it`.
//! 3. Body bytes are never changed: what was verified is what is stored and what is sent: held by
//!    `test:a_target_receives_the_exact_bytes_and_the_contracts_headers_and_no_others`,
//!    `test:a_damaged_record_is_isolated_counted_and_told_and_the_others_are_delivered`.
//! 4. Only [`verify`] makes a `Verified`; only a `Verified` becomes a `Notification`; only a `Notification`
//!    is spooled for delivery, or what one spool has kept, by another. Types hold the order; what they rest on is
//!    held by `test:any_single_bit_changed_is_refused`.
//! 5. Live dispatch and recovery after a crash are one code path: what is owed is what `Spool::due` finds, and what
//!    a commit leaves on a worker's doorstep is the same, not read back: held by
//!    `test:the_schedule_survives_a_restart`,
//!    `test:what_is_left_is_what_would_be_read_and_is_still_owed`,
//!    `test:nothing_is_left_before_it_is_on_disk_nor_of_what_is_undone`.
//! 6. A failed sync, the checkpoint's included, ends the process with exit code 74; a full disk is no failed
//!    sync: refuse, go on, heal: held by `test:a_failed_sync_is_fatal_and_a_full_disk_is_not`,
//!    `test:a_full_disk_refuses_delivers_what_it_holds_and_heals`.
//! 7. Nothing is unbounded: queues, bodies, connections, answers, files, waits: held by
//!    `test:past_the_limit_a_client_waits_until_another_goes`,
//!    `test:whoever_only_holds_connections_makes_room_the_oldest_first`, `test:a_spent_byte_budget_is_500`,
//!    `test:good_ones_are_answered_while_strangers_hold_back_their_bodies`,
//!    `test:streams_that_drip_have_no_more_memory_than_all_may_hold`,
//!    `test:attempts_in_flight_never_exceed_the_maximum`,
//!    `test:look_ups_that_hang_are_few_and_hold_up_no_other_target`, `test:the_log_stays_short_beneath_readers`.
//! 8. No module imports one above it: held by `test:no_room_imports_one_beside_or_above_it`.
//! 9. Every delivery ever accepted is accounted for, and what has not settled leaves only at an operator's
//!    word: held by `test:nothing_is_lost_and_every_delivery_is_accounted_for`,
//!    `test:a_discard_takes_the_exact_count_or_nothing`, `test:an_audit_tells_each_discrepancy`,
//!    `test:a_replay_that_was_cut_short_goes_on_from_where_it_was`.
//! 10. Of relays that share a spool, one at a time has a delivery in hand, and none settles what was taken
//!     from it; what is kept on a disk meanwhile is delivered once it is shared: held by
//!     `test:a_delivery_is_in_one_relays_hands`,
//!     `test:what_the_server_or_another_disk_has_as_well_is_kept_and_delivered_once`,
//!     `test:a_relay_that_was_not_heard_of_settles_nothing_that_was_taken_from_it`,
//!     `test:what_was_taken_over_unseen_is_not_begun`.
//!
//! # The rooms, in reading order
//!
//! Imports go strictly downward; rooms on one floor never import each other (`tests/it/house.rs`).
//!
//! ```text
//! 9  main                          arguments to exit code
//! 8  cli                           one file a command
//! 7  app                           wires the house: start order, tasks, stop order
//! 6  config                        the file: tree, checks, what they become
//! 5  admin  ingress  dispatch      probes and metrics · in · out
//! 4  routing                       sources, routes, targets: one immutable value
//! 3  spool  target                 what is kept · how one attempt is made
//! 2  notification  trace           a verified request that may be kept · what is told of its way
//! 1  verify  schema  retry  pem    pure: signature, shape, waits, keys of files
//! 0  clock  name  secret           know nobody
//! ```
//!
//! Begin with [`ingress`], whose `let_in` and `receive` are the whole plot of a request, and with the header of
//! `spool/disk.rs`, which says what a crash at each point leaves (`spool/postgres.rs`, where many relays
//! share one, and `spool/fallback.rs`, where a disk is beside it).

pub mod clock;
pub mod name;
pub mod secret;

pub mod pem;
pub mod retry;
pub mod schema;
pub mod verify;

pub mod notification;
pub mod trace;

pub mod spool;
pub mod target;

pub mod routing;

pub mod admin;
pub mod dispatch;
pub mod ingress;

pub mod config;

pub mod app;

pub mod cli;
