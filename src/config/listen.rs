//! `listen`: where and how notifications come in, and what the listener takes at most.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::block::Block;
use super::reader::{At, Read};
use super::tls;
use crate::ingress::Limits;
use crate::ingress::tls::Identity;

/// The listener for the sender.
#[derive(Clone, Debug)]
pub struct Listen {
    pub address: SocketAddr,
    pub tls: Identity,
    /// How `tls` is written.
    pub tls_settings: tls::Settings,
    pub limits: Limits,
}

const KEYS: &[&str] = &["address", "tls", "limits"];
const LIMITS_KEYS: &[&str] = &[
    "connections",
    "connections_per_peer",
    "body",
    "bodies_in_flight",
    "handshake_timeout",
    "header_timeout",
    "body_timeout",
    "idle_timeout",
    "ack_timeout",
    "max_connection_age",
];

const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8443);
const MIB: u64 = 1 << 20;
const BODY_BOUNDS: RangeInclusive<u64> = 1024..=1024 * MIB;
const BUDGET_BOUNDS: RangeInclusive<u64> = 1024..=65_536 * MIB;
const TIMEOUT_BOUNDS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_mins(5);
const LONG_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);
const AGE_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(720);

pub(super) fn read(at: &At<'_>) -> Read<Listen> {
    let block = at.block(KEYS)?;
    let address = block.or("address", ADDRESS, address);
    let tls = block.required("tls").and_then(|at| tls::read(&at));
    let limits = block
        .block("limits", LIMITS_KEYS)
        .and_then(|block| limits(&block));
    let (tls, tls_settings) = tls?;
    Ok(Listen {
        address: address?,
        tls,
        tls_settings,
        limits: limits?,
    })
}

/// An address to listen at.
pub(super) fn address(at: &At<'_>) -> Read<SocketAddr> {
    let text = at.text()?;
    match text.value.parse() {
        Ok(address) => Ok(address),
        Err(_) => at.problem(format!(
            "`{}` is no address to listen at; write an IP address and a port, such as `0.0.0.0:8443` or `[::]:8443`",
            text.written
        )),
    }
}

fn limits(block: &Block<'_>) -> Read<Limits> {
    let seconds = |key, default, bounds: RangeInclusive<Duration>| {
        block.or(key, Duration::from_secs(default), |at| at.duration(bounds))
    };
    let connections = block.or("connections", 1024, |at| at.number(1..=1_000_000));
    let connections_per_peer = block.maybe("connections_per_peer", |at| at.number(1..=1_000_000));
    let body_bytes = block.or("body", 8 * MIB, |at| at.size(BODY_BOUNDS));
    let bodies_in_flight_bytes =
        block.or("bodies_in_flight", 64 * MIB, |at| at.size(BUDGET_BOUNDS));
    let handshake_timeout = seconds("handshake_timeout", 10, TIMEOUT_BOUNDS);
    let header_timeout = seconds("header_timeout", 10, TIMEOUT_BOUNDS);
    let body_timeout = seconds("body_timeout", 30, LONG_BOUNDS);
    let idle_timeout = seconds("idle_timeout", 75, LONG_BOUNDS);
    let ack_timeout = seconds("ack_timeout", 5, TIMEOUT_BOUNDS);
    let age = seconds("max_connection_age", 0, AGE_BOUNDS);
    let limits = Limits {
        connections: connections?,
        connections_per_peer: connections_per_peer?,
        body_bytes: bytes(body_bytes?),
        bodies_in_flight_bytes: bytes(bodies_in_flight_bytes?),
        handshake_timeout: handshake_timeout?,
        header_timeout: header_timeout?,
        body_timeout: body_timeout?,
        idle_timeout: idle_timeout?,
        ack_timeout: ack_timeout?,
        connection_age_max: Some(age?).filter(|age| !age.is_zero()),
    };
    let agree = [body_fits(block, &limits), idle_lasts(block, &limits)];
    agree.into_iter().collect::<Read<()>>()?;
    Ok(limits)
}

/// All the memory there is, on a machine that cannot address more.
fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

fn body_fits(block: &Block<'_>, limits: &Limits) -> Read<()> {
    if limits.body_bytes <= limits.bodies_in_flight_bytes {
        return Ok(());
    }
    block.problem(
        "bodies_in_flight",
        "below `body`, so the largest body would never be let in; make it at least as large",
    )
}

fn idle_lasts(block: &Block<'_>, limits: &Limits) -> Read<()> {
    if limits.idle_timeout >= limits.header_timeout {
        return Ok(());
    }
    block.problem(
        "idle_timeout",
        "below `header_timeout`, which could then never pass; make it at least as long",
    )
}
