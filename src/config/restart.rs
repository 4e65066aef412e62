//! Settings that only a restart can change, written down so that two versions can be compared. Pure.

use std::fmt::Debug;

use super::listen::Listen;
use super::process::{Admin, Drain};
use super::tls::Settings;
use crate::ingress::Limits;
use crate::spool::{self, PostgresOptions, Store};

/// What such settings are, each by its key, in the order of the config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fixed(Vec<(&'static str, String)>);

impl Fixed {
    pub fn of(listen: &Listen, admin: &Admin, spool: &Store, drain: &Drain) -> Self {
        let mut fixed = Self::default();
        fixed.listen(listen);
        let Admin { address, operator } = admin;
        fixed.add("admin.address", address);
        let operator = operator.as_ref();
        fixed.add("admin.operator.address", &operator.map(|it| it.address));
        fixed.spool(spool);
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

    /// The keys of either store: one may be exchanged for the other.
    fn spool(&mut self, store: &Store) {
        let (disk, postgres) = match store {
            Store::Disk(options) => (Some(options), None),
            Store::Postgres(options) => {
                let beside = options.fallback.as_ref();
                (beside.map(|fallback| &fallback.disk), Some(options))
            }
        };
        let disk = disk.map(
            |spool::Options {
                 path,
                 capacity_bytes,
                 keys,
                 keep_delivered: _,
                 unverified_capacity_bytes,
             }| {
                (
                    path,
                    capacity_bytes,
                    keys.as_ref().map(spool::Keys::fingerprint),
                    unverified_capacity_bytes,
                )
            },
        );
        self.add("spool.disk.path", &disk.as_ref().map(|it| it.0));
        self.add("spool.disk.capacity", &disk.as_ref().map(|it| it.1));
        self.add("spool.disk.key_file", &disk.as_ref().map(|it| &it.2));
        let fallback = postgres.is_some_and(|it| it.fallback.is_some());
        self.add("spool.disk.fallback", &fallback);
        self.add("spool.unverified_capacity", &disk.as_ref().map(|it| it.3));
        self.add("spool.keep_delivered", &store.keep_delivered());
        self.postgres(postgres);
    }

    fn postgres(&mut self, options: Option<&PostgresOptions>) {
        self.add(
            "spool.postgres.url",
            &options.map(PostgresOptions::fingerprint),
        );
        self.add("spool.postgres.schema", &options.map(|it| &it.schema));
        self.add("spool.postgres.pool", &options.map(|it| it.connections));
        let tls = options.map(|it| it.tls.as_ref().map(|tls| &tls.trusted));
        self.add("spool.postgres.tls", &tls);
        let timeout = options.map(|it| it.statement_timeout);
        self.add("spool.postgres.statement_timeout", &timeout);
        self.add("spool.postgres.lease", &options.map(|it| it.lease));
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
