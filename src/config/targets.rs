//! `targets`: where notifications go out, and how each is treated.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::block::Block;
use super::build::{self, Outbound};
use super::outbound;
use super::reader::{At, Read};
use super::tree::Place;
use crate::name::Name;
use crate::retry;
use crate::target::{Breaker, Policy, Target};

const KEYS: &[&str] = &[
    "name",
    "http",
    "grpc",
    "timeout",
    "connect_timeout",
    "max_in_flight",
    "retry",
    "breaker",
    "give_up_on",
    "delivered_on",
];
const TARGETS_MAX: usize = 256;
const STATUSES_MAX: usize = 64;
/// A definite no to this notification, whoever is asked and however often.
const GIVE_UP_ON: [u16; 6] = [400, 405, 410, 413, 415, 422];
const TIMEOUT_BOUNDS: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_mins(10);
const PAUSE_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(24);
const GIVE_UP_BOUNDS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_hours(8760);

/// The names go to `names` even where the rest is wrong: routes may still mean them.
pub(super) fn read(at: &At<'_>, names: &mut BTreeMap<Name, Place>) -> Read<Vec<Target>> {
    let items = at.list(1..=TARGETS_MAX)?;
    let mut urls = BTreeMap::new();
    let targets: Vec<_> = items
        .iter()
        .map(|item| target(item, names, &mut urls))
        .collect();
    targets.into_iter().collect()
}

fn target(
    at: &At<'_>,
    names: &mut BTreeMap<Name, Place>,
    urls: &mut BTreeMap<String, Place>,
) -> Read<Target> {
    let block = at.block(KEYS)?;
    let name = block
        .required("name")
        .and_then(|at| at.once(names, at.name()?));
    let outbound = outbound(&block);
    let policy = policy(&block);
    let (key, outbound) = outbound?;
    if let Some(first) = urls.insert(outbound.destination(), at.place()) {
        at.warning(format!(
            "the same URL as the target at {}:{}; it may receive each notification twice",
            first.line, first.column
        ));
    }
    match build::target(name?, policy?, outbound) {
        Ok(target) => Ok(target),
        Err(error) => block.problem(key, error),
    }
}

/// `http` or `grpc`, and under which key it was.
fn outbound(block: &Block<'_>) -> Read<(&'static str, Outbound)> {
    match (block.optional("http"), block.optional("grpc")) {
        (Some(http), None) => Ok(("http", Outbound::Http(outbound::read(&http)?))),
        (None, Some(grpc)) => {
            let grpc = outbound::read_grpc(&grpc);
            no_statuses(block)?;
            Ok(("grpc", Outbound::Grpc(grpc?)))
        }
        (Some(_), Some(_)) => block.problem("grpc", "excludes `http`; make two targets of them"),
        (None, None) => block.problem("http", "missing; a target has `http: …` or `grpc: …`"),
    }
}

/// Those of gRPC mean what they mean.
fn no_statuses(block: &Block<'_>) -> Read<()> {
    for key in ["give_up_on", "delivered_on"] {
        if let Some(at) = block.optional(key) {
            return at
                .problem("lists statuses of HTTP, which a gRPC target has none of; remove it");
        }
    }
    Ok(())
}

fn policy(block: &Block<'_>) -> Read<Policy> {
    let timeouts = timeouts(block);
    let in_flight_max = block.or("max_in_flight", 16, |at| at.number(1..=4096));
    let retry = retry(block);
    let breaker = breaker(block);
    let statuses = statuses(block);
    let (timeout, connect_timeout) = timeouts?;
    let (give_up_on, delivered_on) = statuses?;
    Ok(Policy {
        timeout,
        connect_timeout,
        in_flight_max: in_flight_max?,
        retry: retry?,
        breaker: breaker?,
        give_up_on,
        delivered_on,
    })
}

fn timeouts(block: &Block<'_>) -> Read<(Duration, Duration)> {
    let timeout = seconds(block, "timeout", 10, TIMEOUT_BOUNDS);
    let connect = block.optional("connect_timeout");
    let connect_timeout = seconds(block, "connect_timeout", 2, TIMEOUT_BOUNDS);
    let (timeout, connect_timeout) = (timeout?, connect_timeout?);
    match connect {
        Some(at) if connect_timeout > timeout => {
            at.problem("above `timeout`, which ends the whole attempt; make it no longer")
        }
        _ => Ok((timeout, connect_timeout.min(timeout))),
    }
}

fn retry(target: &Block<'_>) -> Read<retry::Policy> {
    let block = target.block("retry", &["initial", "max", "give_up_after"])?;
    let initial = seconds(&block, "initial", 1, PAUSE_BOUNDS);
    let max = seconds(&block, "max", 5 * 60, PAUSE_BOUNDS);
    let give_up_after = seconds(&block, "give_up_after", 72 * 3600, GIVE_UP_BOUNDS);
    let (initial, max) = (initial?, max?);
    if initial > max {
        return block.problem("max", "below `initial`; make it at least as long");
    }
    Ok(retry::Policy {
        initial,
        max,
        give_up_after: give_up_after?,
    })
}

fn breaker(target: &Block<'_>) -> Read<Breaker> {
    let block = target.block("breaker", &["failures", "probe_after", "probe_max"])?;
    let failures = block.or("failures", 5, |at| at.number(1..=1000));
    let probe_after = seconds(&block, "probe_after", 1, PAUSE_BOUNDS);
    let probe_max = seconds(&block, "probe_max", 60, PAUSE_BOUNDS);
    let (probe_after, probe_max) = (probe_after?, probe_max?);
    if probe_after > probe_max {
        return block.problem("probe_max", "below `probe_after`; make it at least as long");
    }
    Ok(Breaker {
        failures: failures?,
        probe_after,
        probe_max,
    })
}

/// `give_up_on` and `delivered_on`. A status that is listed in one leaves the other's default.
fn statuses(block: &Block<'_>) -> Read<(BTreeSet<u16>, BTreeSet<u16>)> {
    let given = block.optional("give_up_on").is_some();
    let give_up_on = block.or("give_up_on", GIVE_UP_ON.into(), |at| status_list(at, 300));
    let delivered_on = block.or("delivered_on", BTreeSet::new(), |at| status_list(at, 300));
    let (mut give_up_on, delivered_on) = (give_up_on?, delivered_on?);
    if given && let Some(both) = give_up_on.intersection(&delivered_on).next() {
        return block.problem(
            "delivered_on",
            format!("{both} is in `give_up_on` too; keep it in one of the two"),
        );
    }
    give_up_on.retain(|status| !delivered_on.contains(status));
    Ok((give_up_on, delivered_on))
}

/// Statuses from 300 on: 2xx always means delivered, and 1xx is no answer.
fn status_list(at: &At<'_>, min: u16) -> Read<BTreeSet<u16>> {
    let items = at.list(0..=STATUSES_MAX)?;
    let statuses: Vec<_> = items.iter().map(|item| item.number(min..=599)).collect();
    statuses.into_iter().collect()
}

fn seconds(
    block: &Block<'_>,
    key: &'static str,
    default: u64,
    bounds: RangeInclusive<Duration>,
) -> Read<Duration> {
    block.or(key, Duration::from_secs(default), |at| at.duration(bounds))
}
