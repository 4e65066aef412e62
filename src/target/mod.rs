//! Targets: how a notification leaves, one attempt at a time.
//!
//! [`Target::attempt`] sends one request and returns what it meant. It keeps nothing, retries nothing
//! beyond a connection that was stale before a byte of it was used, and never panics on what a target
//! answers. Every wait has the attempt's own deadline above it, and what is read of an answer is
//! bounded and thrown away.

pub mod address;
mod connect;
mod connection;
pub mod grpc;
pub mod http;
mod lookup;
pub mod outcome;
pub mod sign;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::name::Name;
use crate::notification::Record;
use crate::retry;
use crate::trace::Span;
pub use connect::{Unreached, client_config};
pub use outcome::{Outcome, Reason};

/// One configured target: how to reach it and how to treat it.
#[derive(Debug)]
pub struct Target {
    pub name: Name,
    pub policy: Policy,
    how: How,
}

/// How a target is treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// One attempt, all of it: name look-up, connecting, TLS, request, answer.
    pub timeout: Duration,
    pub connect_timeout: Duration,
    pub in_flight_max: usize,
    pub retry: retry::Policy,
    pub breaker: Breaker,
    /// Statuses that make a dead letter at once.
    pub give_up_on: BTreeSet<u16>,
    /// Statuses beside 2xx that mean that the target has it.
    pub delivered_on: BTreeSet<u16>,
}

/// When to stop asking a target that fails, and how to ask again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Consecutive failures that open it.
    pub failures: u32,
    /// First pause before a probe; doubles with each probe that fails.
    pub probe_after: Duration,
    /// Longest pause before a probe.
    pub probe_max: Duration,
}

/// What is sent, beside the target's own settings.
#[derive(Clone, Copy, Debug)]
pub struct Parcel<'a> {
    pub record: &'a Record,
    /// Counts from 1.
    pub attempt: u32,
    /// Sent again at an operator's wish.
    pub replay: bool,
    pub span: Span,
}

#[derive(Debug)]
enum How {
    Http(Box<http::Http>),
    Grpc(Box<grpc::Grpc>),
}

impl Target {
    pub fn http(
        name: Name,
        policy: Policy,
        options: http::Options,
    ) -> Result<Self, http::BuildError> {
        let how = How::Http(Box::new(http::Http::new(options, &policy)?));
        Ok(Self { name, policy, how })
    }

    /// `method` is the user's own; without one, `NotificationSink/Deliver`.
    pub fn grpc(
        name: Name,
        policy: Policy,
        options: &http::Options,
        method: Option<grpc::method::Method>,
    ) -> Result<Self, http::BuildError> {
        let how = How::Grpc(Box::new(grpc::Grpc::new(options, method, &policy)?));
        Ok(Self { name, policy, how })
    }

    /// Whether it is in our own pod, as far as its address tells.
    pub fn is_loopback(&self) -> bool {
        match &self.how {
            How::Http(http) => http.is_loopback(),
            How::Grpc(grpc) => grpc.is_loopback(),
        }
    }

    /// Why this body does not fit the message of a method of the user's own, if it is so.
    pub fn misfit(&self, body: &[u8]) -> Option<grpc::method::Misfit> {
        match &self.how {
            How::Http(_) => None,
            How::Grpc(grpc) => grpc.misfit(body),
        }
    }

    /// Makes one connection as an attempt would, and closes it: nothing is sent, and nobody counts it.
    ///
    /// Cancellation: dropping the future gives the connection up.
    pub async fn try_out(&self) -> Result<(), Unreached> {
        match &self.how {
            How::Http(http) => http.try_out().await,
            How::Grpc(grpc) => grpc.try_out().await,
        }
    }

    /// Sends one request, within the policy's timeout.
    ///
    /// Cancellation: dropping the future abandons the request; the target may have acted on it.
    pub async fn attempt(&self, parcel: Parcel<'_>) -> Outcome {
        let attempt = async {
            match &self.how {
                How::Http(http) => http.attempt(parcel, &self.policy).await,
                How::Grpc(grpc) => grpc.attempt(&self.name, parcel).await,
            }
        };
        tokio::time::timeout(self.policy.timeout, attempt)
            .await
            .unwrap_or(Outcome::Retry {
                reason: Reason::Timeout,
                after: None,
            })
    }
}

#[cfg(test)]
mod tests;
