//! `admin`, `drain`: what belongs to the process and changes only with a restart.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::block::Block;
use super::listen::address;
use super::reader::Read;
use super::references::secret;
use crate::secret::Secret;

/// The listener for metrics and probes, and the operator's.
#[derive(Clone, Debug)]
pub struct Admin {
    pub address: SocketAddr,
    /// `None`: there is no operator API.
    pub operator: Option<Operator>,
}

/// The operator's listener.
#[derive(Clone, Debug)]
pub struct Operator {
    pub address: SocketAddr,
    /// What a request must bear; `None` on loopback only. Follows its file without a restart.
    pub token: Option<Secret>,
}

/// How the relay stops. Both times count from the signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Still accepting, no longer ready.
    pub delay: Duration,
    /// What is not done by then is cut.
    pub deadline: Duration,
}

const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9740);
const OPERATOR_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9741);

pub(super) fn admin(root: &Block<'_>) -> Read<Admin> {
    let block = root.block("admin", &["address", "operator"])?;
    let admin_address = block.or("address", ADMIN_ADDRESS, address);
    let operator = if block.is_null("operator") {
        Ok(None)
    } else {
        operator(&block).map(Some)
    };
    let (address, operator) = (admin_address?, operator?);
    let shared = operator.as_ref().is_some_and(|it| it.address == address);
    if shared && address.port() != 0 {
        return block.problem(
            "operator",
            "the same address as `admin.address`; give it another port",
        );
    }
    Ok(Admin { address, operator })
}

fn operator(admin: &Block<'_>) -> Read<Operator> {
    let block = admin.block("operator", &["address", "token"])?;
    let listens_at = block.or("address", OPERATOR_ADDRESS, address);
    let token = block.maybe("token", secret);
    let (address, token) = (listens_at?, token?.flatten());
    if token.is_none() && !address.ip().is_loopback() {
        return block.problem(
            "token",
            "missing: off loopback, whoever reaches this address could read and discard notifications; \
             add `token: { file: … }`, or listen at 127.0.0.1",
        );
    }
    Ok(Operator { address, token })
}

pub(super) fn drain(root: &Block<'_>) -> Read<Drain> {
    let block = root.block("drain", &["delay", "deadline"])?;
    let delay = block.or("delay", Duration::from_secs(10), |at| {
        at.duration(Duration::ZERO..=Duration::from_mins(10))
    });
    let deadline = block.or("deadline", Duration::from_secs(25), |at| {
        at.duration(Duration::from_millis(100)..=Duration::from_hours(1))
    });
    let (delay, deadline) = (delay?, deadline?);
    if delay >= deadline {
        return block.problem(
            "deadline",
            "not above `delay`: both count from the signal, and between them requests end; make it longer",
        );
    }
    Ok(Drain { delay, deadline })
}
