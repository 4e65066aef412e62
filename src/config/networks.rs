//! `allow_addresses` of a target: the networks that it may be in.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::reader::{At, Read};
use crate::target::address::{Allowed, is_forbidden};

const NETWORKS_MAX: usize = 64;

pub(super) fn read(at: &At<'_>) -> Read<Allowed> {
    let items = at.list(0..=NETWORKS_MAX)?;
    let networks: Vec<_> = items.iter().map(network).collect();
    let networks: Read<Vec<_>> = networks.into_iter().collect();
    Ok(Allowed::new(networks?))
}

/// `10.1.0.0/16`; an address alone is a network of one.
fn network(at: &At<'_>) -> Read<IpNet> {
    let text = at.text()?.value;
    let alone = || text.parse().map(|address: IpAddr| address.into()).ok();
    let Some(network) = text.parse().ok().or_else(alone) else {
        return at
            .problem("no network; write an address and how many of its bits count: `10.1.0.0/16`");
    };
    let network = canonical(network);
    if network != network.trunc() {
        return at.problem("bits are set behind the prefix; clear them, or write a longer prefix");
    }
    // No network begins and ends where nothing is ever connected to, and is open in between.
    if is_forbidden(network.network()) && is_forbidden(network.broadcast()) {
        return at.problem(
            "link-local addresses and metadata services of clouds are never connected to; remove it",
        );
    }
    Ok(network)
}

/// Addresses that are mapped into IPv6 are compared as what they stand for.
fn canonical(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(v6) => v6
            .addr()
            .to_ipv4_mapped()
            .zip(v6.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    let v4 = mapped.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
    v4.map_or(network, IpNet::V4)
}
