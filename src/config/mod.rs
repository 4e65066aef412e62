//! The config: one YAML file, read whole, checked whole, and turned into what the parts take.
//!
//! Promises and limits:
//! * A [`Config`] is one that a relay can run with: secrets, certificates, schemas and expressions have
//!   been read, parsed and held against each other. There is no half of one.
//! * Otherwise [`Problems`] has every problem there is, in the order of the file, each with its place and
//!   with what would be right. Only what is no YAML hides the rest.
//! * The file, and each file that it names, is at most 1 MiB; nesting, values and aliases are bounded
//!   (`tree.rs`). Nothing but regular files is opened.
//! * Only keys that this binary acts on are known.
//! * Relative paths begin at the config file's folder.
//! * No message holds what a file, a variable or a `${…}` brought in, but for names.

mod block;
mod build;
mod files;
mod fingerprint;
mod interpolate;
mod listen;
mod mounts;
mod networks;
mod outbound;
mod outline;
mod process;
mod reader;
mod references;
mod report;
mod restart;
mod routes;
mod shown;
mod snapshot;
mod sources;
mod store;
mod targets;
mod tls;
mod tree;
mod units;
mod url;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;

pub use files::{FILE_BYTES_MAX, ReadFile, contents};
pub use fingerprint::Fingerprint;
pub use interpolate::Lookup;
pub use listen::Listen;
pub use mounts::mounted_alone;
pub use outline::{Changes, ItemChanges, Outline};
pub use process::{Admin, Drain, Operator};
pub use report::{Problem, Problems};
pub use tls::Settings as TlsSettings;
pub use tree::Place;
pub use watch::{Mode as WatchMode, POLL_EVERY, Watch};

use crate::routing::Routing;
use crate::spool::Store;
use block::Block;
use files::Files;
use fingerprint::Tape;
use reader::{At, Read, Surroundings};
use report::Report;
use restart::Fixed;
use snapshot::Snapshot;

const KEYS: &[&str] = &[
    "listen", "admin", "spool", "drain", "sources", "targets", "routes",
];

/// Attempts at reading files that are replaced meanwhile.
const READS_MAX: usize = 5;

/// A config that a relay can run with.
#[derive(Debug)]
pub struct Config {
    pub listen: Listen,
    pub admin: Admin,
    pub spool: Store,
    pub drain: Drain,
    pub routing: Routing,
    /// What it amounts to, to be compared with another version's.
    pub outline: Outline,
    /// The config file and every file that it names, there or not, in the order of mention.
    pub files: Vec<PathBuf>,
    /// What those files held; see [`contents()`].
    pub contents: Fingerprint,
    /// SHA-256 of the config file's bytes.
    pub sha256: [u8; 32],
    /// The file as an operator may see it.
    pub shown: serde_json::Value,
    /// Doubtful, but no reason to refuse; in the order of the file.
    pub warnings: Vec<Problem>,
}

/// JSON Schema (2020-12) of the config file, for editors.
pub const fn json_schema() -> &'static str {
    include_str!("schema.json")
}

impl Config {
    /// Reads a config file and every file that it names.
    ///
    /// # Errors
    /// [`Problems`], all of them.
    pub fn read(path: &Path, env: &Lookup<'_>) -> Result<Self, Problems> {
        for _ in 0..READS_MAX {
            let snapshot = Snapshot::default();
            let read = Self::read_by(path, env, &|file| snapshot.read(file));
            if !snapshot.moved() {
                return read;
            }
        }
        let what = "its files were replaced again and again while they were read; try again";
        let contents = Tape::default().fingerprint();
        Err(Problems::of_file(path, contents, Place::START, what.into()))
    }

    fn read_by(path: &Path, env: &Lookup<'_>, read: &ReadFile<'_>) -> Result<Self, Problems> {
        let bytes = read(path);
        let tape = Tape::default();
        tape.note(path, &bytes);
        let text = bytes.map_err(|error| format!("cannot read the config: {error}"));
        let text = text.and_then(|bytes| {
            String::from_utf8(bytes).map_err(|error| {
                let valid = error.utf8_error().valid_up_to();
                format!("not UTF-8 from byte {valid} on; save it as UTF-8")
            })
        });
        match text {
            Ok(text) => Self::parse(&text, path, env, read),
            Err(what) => {
                let contents = tape.fingerprint();
                Err(Problems::of_file(path, contents, Place::START, what))
            }
        }
    }

    /// Checks the text of a config. `origin` is the file it comes from; `read` reads the files it names.
    ///
    /// # Errors
    /// [`Problems`], all of them.
    pub fn parse(
        text: &str,
        origin: &Path,
        env: &Lookup<'_>,
        read: &ReadFile<'_>,
    ) -> Result<Self, Problems> {
        let tape = Tape::default();
        tape.note(origin, &Ok(text.as_bytes().to_vec()));
        let root = tree::parse(text).map_err(|refusal| {
            let contents = tape.fingerprint();
            Problems::of_file(origin, contents, refusal.place, refusal.what)
        })?;
        let report = Report::default();
        report.file(origin);
        let files = Files {
            folder: origin.parent().unwrap_or(Path::new("")).to_owned(),
            read,
            tape,
        };
        let around = Surroundings {
            report: &report,
            env,
            files: &files,
        };
        let read = At::root(&root, around).block(KEYS).and_then(|root| {
            let parts = Parts::read(&root)?;
            // Reading goes on past a problem, and would tell it again here.
            let outline = report.is_clean().then(|| parts.outline(&root));
            Ok((parts, outline.transpose()?))
        });
        let contents = files.tape.fingerprint();
        let (problems, warnings, files) = report.into_parts();
        match read {
            Ok((parts, Some(outline))) => Ok(Self {
                listen: parts.listen,
                admin: parts.admin,
                spool: parts.spool,
                drain: parts.drain,
                routing: parts.routing,
                outline,
                files,
                contents,
                sha256: sha256(text),
                shown: shown::shown(&root),
                warnings,
            }),
            _ => Err(Problems {
                origin: origin.to_owned(),
                problems,
                warnings,
                files,
                contents,
            }),
        }
    }
}

/// What the file itself says.
struct Parts {
    listen: Listen,
    admin: Admin,
    spool: Store,
    drain: Drain,
    routing: Routing,
}

impl Parts {
    fn read(root: &Block<'_>) -> Read<Self> {
        let listen = root.required("listen").and_then(|at| listen::read(&at));
        let admin = process::admin(root);
        let ack_timeout = listen.as_ref().map(|listen| listen.limits.ack_timeout);
        let spool = store::read(root, ack_timeout.unwrap_or_default());
        let drain = process::drain(root);
        let routing = routing(root, spool.as_ref().ok());
        let (listen, admin, spool) = (listen?, admin?, spool?);
        if listen.address == admin.address && listen.address.port() != 0 {
            return root.problem(
                "admin",
                "the same address as `listen`; give it another port",
            );
        }
        let disk = match &spool {
            Store::Disk(disk) => Some(disk),
            Store::Postgres(server) => server.fallback.as_ref().map(|it| &it.disk),
        };
        if disk.is_some_and(|disk| listen.limits.body_bytes as u64 > disk.capacity_bytes) {
            return root.problem(
                "spool",
                "`disk.capacity` is below `listen.limits.body`; make it larger",
            );
        }
        let (drain, routing) = (drain?, routing?);
        Ok(Self {
            listen,
            admin,
            spool,
            drain,
            routing,
        })
    }

    /// Of a config in which no problem was found.
    fn outline(&self, root: &Block<'_>) -> Read<Outline> {
        Ok(Outline {
            fixed: Fixed::of(&self.listen, &self.admin, &self.spool, &self.drain),
            parts: outline::Parts::read(root)?,
        })
    }
}

fn routing(root: &Block<'_>, spool: Option<&Store>) -> Read<Routing> {
    let keep_delivered = spool.map(Store::keep_delivered);
    let sources = root
        .required("sources")
        .and_then(|at| sources::read(&at, keep_delivered));
    let mut names = BTreeMap::new();
    let targets = root
        .required("targets")
        .and_then(|at| targets::read(&at, &mut names));
    let routes = root.required("routes").and_then(|at| {
        let routes = routes::read(&at, &names)?;
        routes::all_reached(&at, &routes, &names);
        Ok(routes)
    });
    let targets = targets?.into_iter().map(Arc::new).collect();
    Ok(Routing::new(sources?, routes?, targets))
}

fn sha256(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    bytes
}
