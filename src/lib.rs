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
//! * *Quarantine* holds authentic notifications that cannot be delivered as they are.
//! * The *spool* is the durable store of all of these.
//!
//! # The invariants, and the tests that hold them
//!
//! INVARIANTS
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
//! 2  notification                  a verified request that may be kept
//! 1  verify  schema  retry         pure: signature, shape, waits
//! 0  clock  name  secret           know nobody
//! ```
//!
//! Begin with [`ingress`], whose `receive` is the whole plot of a request, and with the header of
//! [`spool::disk`], which says what a crash at each point leaves.

pub mod clock;
pub mod name;
pub mod secret;

pub mod retry;
pub mod schema;
pub mod verify;

pub mod notification;

pub mod spool;
pub mod target;

pub mod routing;

pub mod admin;
pub mod dispatch;
pub mod ingress;

pub mod config;

pub mod app;

pub mod cli;
