//! Settings that only a restart can change, written down so that two versions can be compared. Pure.

use std::fmt::Debug;

use super::listen::Listen;
use super::process::{Admin, Drain};
use super::tls::Settings;
use crate::ingress::Limits;
use crate::spool;

/// What such settings are, each by its key, in the order of the config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fixed(Vec<(&'static str, String)>);

impl Fixed {
    pub fn of(listen: &Listen, admin: &Admin, spool: &spool::Options, drain: &Drain) -> Self {
        let mut fixed = Self::default();
        fixed.listen(listen);
        let Admin { address, operator } = admin;
        fixed.add("admin.address", address);
        let operator = operator.as_ref();
        fixed.add("admin.operator.address", &operator.map(|it| it.address));
        let spool::Options {
            path,
            capacity_bytes,
            keys,
            keep_delivered,
            unverified_capacity_bytes,
        } = spool;
        fixed.add("spool.disk.path", path);
        fixed.add("spool.disk.capacity", capacity_bytes);
        let keys = keys.as_ref().map(spool::Keys::fingerprint);
        fixed.add("spool.disk.key_file", &keys);
        fixed.add("spool.keep_delivered", keep_delivered);
        fixed.add("spool.unverified_capacity", unverified_capacity_bytes);
        let Drain { delay, deadline } = drain;
        fixed.add("drain.delay", delay);
        fixed.add("drain.deadline", deadline);
        fixed
    }

    /// The keys whose values differ.
    pub fn differing(&self, other: &Self) -> Vec<&'static str> {
        let pairs = self.0.iter().zip(&other.0);
        pairs
            .filter(|(mine, others)| mine != others)
            .map(|((key, _), _)| *key)
            .collect()
    }

    fn listen(&mut self, listen: &Listen) {
        self.add("listen.address", &listen.address);
        let Settings {
            certificate,
            private_key,
            min_version,
            client_ca,
            self_signed,
        } = &listen.tls_settings;
        self.add("listen.tls.certificate", certificate);
        self.add("listen.tls.private_key", private_key);
        self.add("listen.tls.min_version", min_version);
        self.add("listen.tls.client_ca", client_ca);
        self.add("listen.tls.self_signed", self_signed);
        let Limits {
            connections,
            connections_per_peer,
            body_bytes,
            bodies_in_flight_bytes,
            handshake_timeout,
            header_timeout,
            body_timeout,
            idle_timeout,
            ack_timeout,
            connection_age_max,
        } = &listen.limits;
        self.add("listen.limits.connections", connections);
        let per_peer = connections_per_peer;
        self.add("listen.limits.connections_per_peer", per_peer);
        self.add("listen.limits.body", body_bytes);
        self.add("listen.limits.bodies_in_flight", bodies_in_flight_bytes);
        self.add("listen.limits.handshake_timeout", handshake_timeout);
        self.add("listen.limits.header_timeout", header_timeout);
        self.add("listen.limits.body_timeout", body_timeout);
        self.add("listen.limits.idle_timeout", idle_timeout);
        self.add("listen.limits.ack_timeout", ack_timeout);
        self.add("listen.limits.max_connection_age", connection_age_max);
    }

    fn add(&mut self, key: &'static str, value: &dyn Debug) {
        self.0.push((key, format!("{value:?}")));
    }
}
