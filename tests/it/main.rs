//! The relay from outside: the real binary, real sockets, real files, real kills.

#![allow(clippy::expect_used)] // all of this crate is tests, and what they share

mod harness;

mod commands;
mod explain;
mod house;
mod observe;
mod privacy;
mod probes;
mod readme;
mod reload;
mod restart;
mod whole;
