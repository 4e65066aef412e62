//! What the config says of the server.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use rustls::ClientConfig;
use tokio_postgres::config::{Host, TargetSessionAttrs};

use crate::secret::Secret;
use crate::spool::Options;

/// How a spool is kept in `PostgreSQL`.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database`; several hosts are tried in turn.
    pub url: Secret,
    /// The schema that is this spool's alone: lower-case letters, digits, `_`.
    pub schema: String,
    /// Connections of this relay: one to write, one to listen, the others to claim and to read.
    pub connections: usize,
    /// How the server is verified; `None`: in clear text.
    pub tls: Option<ServerTls>,
    /// The longest that one question, or one commit, may take.
    pub statement_timeout: Duration,
    /// How long what this relay has claimed stays its own if nothing is heard of it.
    pub lease: Duration,
    /// How long settled notifications and the marks for duplicates stay.
    pub keep_delivered: Duration,
    /// The disk beside it, for what comes while the server is away.
    pub fallback: Option<FallbackOptions>,
}

/// A disk beside the server.
#[derive(Clone, Debug)]
pub struct FallbackOptions {
    pub disk: Options,
    /// So long the server may take for what came; then it is kept on the disk.
    pub after: Duration,
}

/// How the server is verified.
#[derive(Clone, Debug)]
pub struct ServerTls {
    pub config: Arc<ClientConfig>,
    /// SHA-256 of the authorities that are trusted; `None`: the system's.
    pub trusted: Option<Vec<u8>>,
}

/// One to write, one to listen, one to claim with while an operator reads.
pub const CONNECTIONS_MIN: usize = 4;

/// The longest identifier that PostgreSQL does not cut.
const SCHEMA_LENGTH_MAX: usize = 63;

/// Settings that libpq knows and that `spool.postgres.tls` decides here.
const OF_TLS: [&str; 3] = ["sslmode", "sslrootcert", "sslnegotiation"];

impl PostgresOptions {
    /// SHA-256 of the URL, to tell whether it changed.
    pub fn fingerprint(&self) -> Vec<u8> {
        let digest = digest::digest(&digest::SHA256, self.url.expose());
        digest.as_ref().to_vec()
    }

    /// The server that the URL names.
    pub(super) fn server(&self) -> Result<tokio_postgres::Config, String> {
        Self::parse(&self.url)
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong, in words that do not quote it: it holds a password.
    pub fn parse(url: &Secret) -> Result<tokio_postgres::Config, String> {
        const WHAT: &str = "no PostgreSQL URL; put one such as `postgres://user:password@host:5432/database` there";
        let text = std::str::from_utf8(url.expose()).map_err(|_| WHAT)?;
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(WHAT.into());
        }
        let mut server: tokio_postgres::Config = without_tls(text).parse().map_err(|_| WHAT)?;
        if server.get_hosts().is_empty() {
            return Err(
                "a URL that names no host; write `postgres://user:password@host:5432/database`"
                    .into(),
            );
        }
        if server.get_user().is_none() {
            return Err(
                "a URL that names no user; write `postgres://user:password@host:5432/database`"
                    .into(),
            );
        }
        if server.get_hosts().len() > 1 {
            server.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        Ok(server)
    }

    /// A name that needs no quotes, and is no schema of the server's own.
    ///
    /// # Errors
    /// What is wrong with it, to be read after it.
    pub fn schema(text: &str) -> Result<String, String> {
        let inner = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_');
        let fits = (1..=SCHEMA_LENGTH_MAX).contains(&text.len())
            && text.bytes().all(inner)
            && !text.starts_with(|c: char| c.is_ascii_digit())
            && !text.starts_with("pg_")
            && text != "public";
        if !fits {
            return Err(format!(
                "is no schema of this relay's own: 1 to {SCHEMA_LENGTH_MAX} lower-case letters, digits or `_`, \
                 no digit first; neither `public` nor `pg_…`"
            ));
        }
        Ok(text.to_owned())
    }

    /// Whether what is sent stays on this machine.
    pub fn is_local(&self) -> bool {
        let local = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => {
                name == "localhost"
                    || name
                        .parse()
                        .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
            }
        };
        self.server()
            .is_ok_and(|server| server.get_hosts().iter().all(local))
    }
}

fn without_tls(url: &str) -> String {
    let Some((place, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let ours = |pair: &&str| !OF_TLS.contains(&pair.split('=').next().unwrap_or_default());
    let query: Vec<&str> = query.split('&').filter(ours).collect();
    format!("{place}?{}", query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> PostgresOptions {
        PostgresOptions {
            url: Secret::from_text(url.into()).expect("not empty"),
            schema: "suki_relay".into(),
            connections: CONNECTIONS_MIN,
            tls: None,
            statement_timeout: Duration::from_secs(10),
            lease: Duration::from_secs(30),
            keep_delivered: Duration::from_hours(72),
            fallback: None,
        }
    }

    #[test]
    fn a_url_is_read_and_never_quoted() {
        let cases = [
            ("postgres://u:canary@db.example/spool", true),
            (
                "postgresql://u:canary@a,b:5433/spool?sslmode=verify-full&sslrootcert=x",
                true,
            ),
            ("postgres://u@%2Frun%2Fpg/spool?sslmode=disable", true),
            ("postgres://db.example/spool", false),
            ("mysql://u:canary@db.example/spool", false),
            ("host=db user=canary", false),
            ("postgres://u:canary@db.example:port/spool", false),
            ("postgres://u:canary@db/spool?nonsense=canary", false),
        ];
        for (url, reads) in cases {
            match options(url).server() {
                Ok(_) => assert!(reads, "{url}"),
                Err(why) => assert!(!reads && !why.contains("canary"), "{url}: {why}"),
            }
        }
    }

    #[test]
    fn a_socket_and_loopback_stay_on_this_machine() {
        for (url, local) in [
            ("postgres://u@%2Frun%2Fpg/spool", true),
            ("postgres://u@127.0.0.1/spool", true),
            ("postgres://u@localhost,[::1]/spool", true),
            ("postgres://u@localhost,db/spool", false),
        ] {
            assert_eq!(options(url).is_local(), local, "{url}");
        }
    }
}
