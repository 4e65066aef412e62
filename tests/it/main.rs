//! The relay from outside: the real binary, real sockets, real files, real kills.

// All of this crate is tests and what they share: counts are small, texts short.
#![allow(
    clippy::cast_precision_loss,
    clippy::expect_used,
    clippy::format_collect
)]

mod harness;

mod calls;
mod commands;
mod disasters;
mod disk;
mod encryption;
mod explain;
mod explain_kept;
mod grpc;
mod hostile;
mod house;
mod killloop;
mod mounts;
mod mutated;
mod observe;
mod operator;
mod powercut;
mod privacy;
mod probes;
mod readme;
mod reload;
mod restart;
mod shared;
mod spool_commands;
mod syncs;
mod targets;
mod traces;
mod whole;
