//! `suki-relay spool`: what the spool holds, and what to do about it.
//!
//! Every command is a request of the operator API: put to a running relay over HTTP, or answered in this
//! process from the folder of a stopped one.

use std::path::PathBuf;

use anyhow::{anyhow, bail, ensure};
use http::Method;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Map, Value};

use super::desk::{Desk, Place, audit_shared};
use super::{ConfigFile, Environment, Failure, check, print, runtime};
use crate::spool::{PostgresOptions, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// With --path: the config that says where releases and replays go, and names the spool's keys; of an audit
    /// without: the config of a spool in PostgreSQL
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// How much there is, by target and by reason
    Status {
        /// Walk the whole spool and hold every count against what is there: with --path, or with the --config of a
        /// spool in PostgreSQL
        #[arg(long)]
        audit: bool,
    },
    /// List notifications, one a line
    List {
        #[command(flatten)]
        which: Which,
        /// A JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show one notification, with its history
    Show {
        id: String,
        /// With its exact bytes and headers
        #[arg(long)]
        body: bool,
    },
    /// Deliver again: dead letters, or one notification to all its targets or to those named
    Replay {
        /// One notification; dead letters by filter without it
        id: Option<String>,
        /// With an id: to these targets
        #[arg(long, value_name = "TARGET", requires = "id", value_delimiter = ',')]
        to: Option<Vec<String>>,
        #[command(flatten)]
        which: Held,
    },
    /// Let notifications out of quarantine
    Release {
        /// Why they are in it: unverified, unrouted, stale, future, `bad_timestamp`, `route_error`, invalid
        #[arg(long)]
        reason: String,
        /// reverify (unverified), reroute, or force (needs --to)
        #[arg(long)]
        action: String,
        /// With force: to these targets
        #[arg(long, value_name = "TARGET", value_delimiter = ',')]
        to: Option<Vec<String>>,
        #[command(flatten)]
        which: Held,
    },
    /// Let go of dead letters, or of what is in quarantine, for good
    Discard {
        /// Of quarantine, and not of dead letters
        #[arg(long)]
        quarantine: bool,
        /// Of quarantine: held for this reason
        #[arg(long, requires = "quarantine")]
        reason: Option<String>,
        /// How many that are, exactly; --dry-run tells
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        #[command(flatten)]
        which: Held,
    },
    /// Print the SQL that makes the tables of a spool in PostgreSQL, or brings those of an older version to
    /// this one: `run` does that itself if it may
    Migrate {
        #[arg(long, required = true)]
        print: bool,
        /// As in `spool.postgres.schema`
        #[arg(long, default_value = "suki_relay", value_name = "NAME", value_parser = PostgresOptions::schema)]
        schema: String,
    },
    /// Print notifications with their exact bytes and headers, as JSON Lines
    Export {
        #[command(flatten)]
        which: Which,
    },
}

/// Which notifications to list.
#[derive(Debug, clap::Args)]
struct Which {
    /// pending, `dead_letter`, quarantined, delivered, unverified
    #[arg(long)]
    state: Option<String>,
    /// Why it is in quarantine
    #[arg(long)]
    reason: Option<String>,
    #[arg(long)]
    source: Option<String>,
    #[arg(long)]
    target: Option<String>,
    /// Received since a moment (RFC 3339), or this long ago (24h)
    #[arg(long)]
    since: Option<String>,
    /// These ids, with commas
    #[arg(long)]
    ids: Option<String>,
    /// No more than so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// Which of those held an order is about.
#[derive(Debug, clap::Args)]
struct Held {
    #[arg(long)]
    source: Option<String>,
    #[arg(long)]
    target: Option<String>,
    /// Received since a moment (RFC 3339), or this long ago (24h)
    #[arg(long)]
    since: Option<String>,
    /// These ids, with commas
    #[arg(long, value_delimiter = ',')]
    ids: Option<Vec<String>>,
    /// Change nothing; tell how many match
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(arguments: &Arguments, environment: Environment<'static>) -> Result<(), Failure> {
    if let Command::Migrate { schema, .. } = &arguments.command {
        return print(&crate::spool::migration(schema));
    }
    let audit = matches!(arguments.command, Command::Status { audit: true });
    if arguments.config.is_some() && arguments.place.path.is_none() && !audit {
        let said =
            "--config goes with --path: a running relay has a config of its own; leave it out";
        return Err(anyhow!(said).into());
    }
    let file = arguments.config.clone().map(|config| ConfigFile { config });
    let config = file
        .map(|file| check::read(&file, environment))
        .transpose()?;
    let (routing, store) = config
        .map(|config| (config.routing, Some(config.spool)))
        .unwrap_or_default();
    runtime()?.block_on(async {
        let store = match store {
            Some(Store::Postgres(options)) if arguments.place.path.is_none() => {
                return Ok(audit_shared(options).await?);
            }
            store => store,
        };
        let desk = Desk::open(&arguments.place, routing, store)?;
        command(&desk, &arguments.command).await?;
        Ok(())
    })
}

async fn command(desk: &Desk, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Status { audit: true } => return desk.audit().await,
        Command::Status { audit: false } => {
            show(&desk.ask(&Method::GET, "/v1/status", None).await?)
        }
        Command::List { which, json } => {
            let as_text = if *json { one_line } else { in_short };
            return list(desk, which, "", as_text).await;
        }
        Command::Show { id, body } => {
            let target = format!("/v1/notifications/{id}?body={}", u8::from(*body));
            show(&desk.ask(&Method::GET, &target, None).await?)
        }
        // Asks nobody: done before there is a desk.
        Command::Migrate { .. } => Ok(()),
        Command::Export { which } => return list(desk, which, "&body=1", one_line).await,
        Command::Replay { id, to, which } => {
            let mut order = which.order();
            match id {
                None => done(&desk.order("/v1/dead-letters/replay", order).await?),
                Some(id) => {
                    ensure!(
                        which.is_any(),
                        "an id and filters do not go together; leave one out"
                    );
                    put(&mut order, "targets", to.as_ref());
                    done(
                        &desk
                            .order(&format!("/v1/notifications/{id}/replay"), order)
                            .await?,
                    )
                }
            }
        }
        Command::Release {
            reason,
            action,
            to,
            which,
        } => {
            let mut order = which.order();
            put(&mut order, "reason", Some(reason));
            put(&mut order, "action", Some(action));
            put(&mut order, "targets", to.as_ref());
            done(&desk.order("/v1/quarantine/release", order).await?)
        }
        Command::Discard {
            quarantine,
            reason,
            count,
            which,
        } => {
            let mut order = which.order();
            put(&mut order, "reason", reason.as_ref());
            put(&mut order, "count", *count);
            let held = if *quarantine {
                "quarantine"
            } else {
                "dead-letters"
            };
            done(&desk.order(&format!("/v1/{held}/discard"), order).await?)
        }
    }
}

async fn list(
    desk: &Desk,
    which: &Which,
    more: &str,
    as_text: fn(&Value) -> String,
) -> anyhow::Result<()> {
    let show = |entry: &Value| print(&as_text(entry)).map_err(|failure| failure.cause);
    let filters = which.query() + more;
    let unreadable = desk.each(&filters, which.limit, show).await?;
    ensure!(
        unreadable.is_empty(),
        "{} more cannot be read, and may be among these: their records are damaged (numbers {}); look at the \
         volume",
        unreadable.len(),
        in_words(&unreadable)
    );
    Ok(())
}

/// The first few.
fn in_words(numbers: &[i64]) -> String {
    let mut words: Vec<_> = numbers.iter().take(10).map(i64::to_string).collect();
    if numbers.len() > words.len() {
        words.push("…".into());
    }
    words.join(", ")
}

fn one_line(entry: &Value) -> String {
    format!("{entry}\n")
}

/// Id, moment, source, and how each delivery stands.
fn in_short(entry: &Value) -> String {
    let word = |key: &str| entry[key].as_str().unwrap_or("-").to_owned();
    let id = entry["number"]
        .as_i64()
        .map_or_else(|| word("id"), |n| n.to_string());
    let mut words = vec![id, word("received_at"), word("source")];
    if let Some(reason) = entry["quarantine"].as_str() {
        words.push(format!("quarantine: {reason}"));
    }
    for delivery in entry["deliveries"].as_array().into_iter().flatten() {
        let word = |key: &str| delivery[key].as_str().unwrap_or("-");
        let attempts = &delivery["attempts"];
        let (target, state, outcome) = (word("target"), word("state"), word("last_outcome"));
        words.push(format!(
            "{target}: {state} after {attempts} attempts ({outcome})"
        ));
    }
    words.join("  ") + "\n"
}

fn show(answer: &Value) -> anyhow::Result<()> {
    print(&format!("{answer:#}\n")).map_err(|failure| failure.cause)
}

/// An order that found nothing to do has not done what was meant.
fn done(answer: &Value) -> anyhow::Result<()> {
    print(&one_line(answer)).map_err(|failure| failure.cause)?;
    match (answer["matched"].as_u64(), answer["done"].as_u64()) {
        (Some(0), _) => {
            bail!("nothing matches; `spool list` with the same filters shows what there is")
        }
        (Some(matched), Some(done)) if done < matched => {
            bail!(
                "{} of {matched} stay as they were; the relay's log says why (of a stopped relay's folder: give its \
                 --config too, where secrets, routes and targets are)",
                matched - done
            )
        }
        _ => Ok(()),
    }
}

fn put(order: &mut Map<String, Value>, key: &str, value: Option<impl serde::Serialize>) {
    if let Some(value) = value.and_then(|value| serde_json::to_value(value).ok()) {
        order.insert(key.into(), value);
    }
}

/// What would end a filter's value, or be read as something else in it.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'#').add(b'%').add(b'&').add(b'+');

impl Which {
    fn query(&self) -> String {
        let pairs = [
            ("state", &self.state),
            ("reason", &self.reason),
            ("source", &self.source),
            ("target", &self.target),
            ("since", &self.since),
            ("ids", &self.ids),
        ];
        let given = pairs
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.as_ref()?)));
        let given: Vec<_> = given
            .map(|(key, value)| format!("&{key}={}", utf8_percent_encode(value, ESCAPED)))
            .collect();
        given.concat()
    }
}

impl Held {
    fn is_any(&self) -> bool {
        self.source.is_none() && self.target.is_none() && self.since.is_none() && self.ids.is_none()
    }

    fn order(&self) -> Map<String, Value> {
        let mut order = Map::new();
        put(&mut order, "source", self.source.as_ref());
        put(&mut order, "target", self.target.as_ref());
        put(&mut order, "since", self.since.as_ref());
        put(&mut order, "ids", self.ids.as_ref());
        put(&mut order, "dry_run", Some(self.dry_run));
        order
    }
}
