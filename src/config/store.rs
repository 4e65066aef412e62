//! `spool`: where notifications are kept, on a disk or in a server, and for how long.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use zeroize::Zeroizing;

use super::block::Block;
use super::reader::{At, Read};
use super::references::{file, secret};
use super::tls;
use super::units::ShownSize;
use crate::secret::Secret;
use crate::spool::{
    self, CONNECTIONS_MIN, FallbackOptions, Keys, PostgresOptions, ServerTls, Store,
};
use crate::target::{client_config, http::Tls};

const KEYS: &[&str] = &["disk", "postgres", "keep_delivered", "unverified_capacity"];
const DISK_KEYS: &[&str] = &["path", "capacity", "key_file", "fallback"];
const POSTGRES_KEYS: &[&str] = &["url", "schema", "pool", "tls", "statement_timeout", "lease"];
const PATH: &str = "/var/lib/suki-relay";
const SCHEMA: &str = "suki_relay";
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Connections of one relay; a server has a few hundred for all.
const CONNECTIONS_MAX: usize = 64;
const CONNECTIONS: usize = 6;

/// `ack_timeout` is how long a sender waits.
pub(super) fn read(root: &Block<'_>, ack_timeout: Duration) -> Read<Store> {
    let block = root.block("spool", KEYS)?;
    let keep_delivered = block.or("keep_delivered", Duration::from_hours(72), |at| {
        at.duration(Duration::from_secs(1)..=Duration::from_hours(8760))
    });
    let Some(server) = block.optional("postgres") else {
        return alone(&block, keep_delivered).map(Store::Disk);
    };
    let fallback = fallback(&block, keep_delivered, ack_timeout);
    let ring = block.or("unverified_capacity", 0, |at| at.size(0..=u64::MAX));
    let server = postgres(&server, keep_delivered, fallback);
    if ring? > 0 {
        return block.problem(
            "unverified_capacity",
            "the ring is a file beside `disk`: with `postgres` there is none; remove it",
        );
    }
    server.map(Store::Postgres)
}

/// A disk that is all there is.
fn alone(block: &Block<'_>, keep_delivered: Read<Duration>) -> Read<spool::Options> {
    let disk = block.block("disk", DISK_KEYS)?;
    if disk.or("fallback", false, At::boolean)? {
        return disk.problem(
            "fallback",
            "there is no `postgres` to fall back from; remove it",
        );
    }
    let unverified = block.or("unverified_capacity", 64 * MIB, unverified_capacity);
    folder(&disk, keep_delivered, unverified)
}

/// A disk beside a server.
fn fallback(
    block: &Block<'_>,
    keep_delivered: Read<Duration>,
    ack_timeout: Duration,
) -> Read<Option<FallbackOptions>> {
    if block.optional("disk").is_none() {
        return Ok(None);
    }
    let disk = block.block("disk", DISK_KEYS)?;
    if !disk.or("fallback", false, At::boolean)? {
        return block.problem(
            "postgres",
            "excludes `disk`; keep one of the two, or give the disk `fallback: true`, for what comes while the \
             server is away",
        );
    }
    let disk = folder(&disk, keep_delivered, Ok(0))?;
    let after = ack_timeout / 2;
    Ok(Some(FallbackOptions { disk, after }))
}

fn folder(
    disk: &Block<'_>,
    keep_delivered: Read<Duration>,
    unverified: Read<u64>,
) -> Read<spool::Options> {
    let files = disk.around.files;
    let path = disk.or("path", PathBuf::from(PATH), |at| {
        Ok(files.resolve(&at.text()?.value))
    });
    let capacity_bytes = disk.or("capacity", 4 * GIB, |at| at.size(MIB..=16 * 1024 * GIB));
    let keys = disk.maybe("key_file", keys);
    Ok(spool::Options {
        path: path?,
        capacity_bytes: capacity_bytes?,
        keys: keys?,
        keep_delivered: keep_delivered?,
        unverified_capacity_bytes: unverified?,
    })
}

fn keys(at: &At<'_>) -> Read<Keys> {
    let (path, bytes) = file(at)?;
    let keys = Keys::parse(&Zeroizing::new(bytes));
    keys.or_else(|error| at.problem(format!("{}: {error}", path.display())))
}

/// Nothing at all, or enough to be of use.
fn unverified_capacity(at: &At<'_>) -> Read<u64> {
    match at.size(0..=1024 * GIB)? {
        bytes @ 1..MIB => at.problem(format!(
            "`{}` is less than `1MiB`; make it larger, or turn the ring off with `0B`",
            ShownSize(bytes)
        )),
        bytes => Ok(bytes),
    }
}

fn postgres(
    at: &At<'_>,
    keep_delivered: Read<Duration>,
    fallback: Read<Option<FallbackOptions>>,
) -> Read<PostgresOptions> {
    let block = at.block(POSTGRES_KEYS)?;
    let url = block.required("url").and_then(|at| url(&at));
    let schema = block.or("schema", SCHEMA.to_owned(), schema);
    let connections = block.or("pool", CONNECTIONS, |at| {
        at.number(CONNECTIONS_MIN..=CONNECTIONS_MAX)
    });
    let tls = if block.is_null("tls") {
        Ok(None)
    } else {
        server_tls(&block).map(Some)
    };
    let statement_timeout = block.or("statement_timeout", Duration::from_secs(10), |at| {
        at.duration(Duration::from_millis(100)..=Duration::from_mins(5))
    });
    let lease = block.or("lease", Duration::from_secs(30), |at| {
        at.duration(Duration::from_secs(1)..=Duration::from_mins(10))
    });
    let options = PostgresOptions {
        url: url?,
        schema: schema?,
        connections: connections?,
        tls: tls?,
        statement_timeout: statement_timeout?,
        lease: lease?,
        keep_delivered: keep_delivered?,
        fallback: fallback?,
    };
    if options.tls.is_none() && !options.is_local() {
        at.warning(
            "notifications go to the server in clear text; remove `tls: null`, or be sure of the network",
        );
    }
    Ok(options)
}

fn url(at: &At<'_>) -> Read<Secret> {
    let Some(url) = secret(at)? else {
        return at.problem("not there; without it there is no spool");
    };
    match PostgresOptions::parse(&url) {
        Ok(_) => Ok(url),
        Err(what) => at.problem(what),
    }
}

fn schema(at: &At<'_>) -> Read<String> {
    let text = at.text()?;
    match PostgresOptions::schema(&text.value) {
        Ok(schema) => Ok(schema),
        Err(what) => at.problem(format!("`{}` {what}", text.written)),
    }
}

fn server_tls(block: &Block<'_>) -> Read<ServerTls> {
    let tls = block.block("tls", &["ca"])?;
    let ca = tls.maybe("ca", tls::authorities)?;
    let sha256 = |pem: &Vec<u8>| digest::digest(&digest::SHA256, pem).as_ref().to_vec();
    let trusted = ca.as_ref().map(sha256);
    let settings = Tls {
        ca: ca.map(Into::into),
        ..Tls::default()
    };
    match client_config(&settings, true) {
        Ok(config) => Ok(ServerTls {
            config: Arc::new(config),
            trusted,
        }),
        Err(error) => block.problem("tls", error.to_string()),
    }
}
