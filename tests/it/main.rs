//! The relay from outside: the real binary, real sockets, real files, real kills.

mod harness;

mod house;
mod readme;
mod restart;
mod whole;
