//! What is looked at before anything is promised: whether COMMIT means durable there, and whose tables
//! those are. The tables are made here, and brought from one version to the next, by whichever relay comes
//! first: in one transaction, behind a lock that the others wait for.
//!
//! A server that cannot keep the promise, and a schema that is not ours, are refused with the setting that
//! is in the way; nothing is changed there.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::fault::Error;
use super::options::PostgresOptions;
use super::session::{Address, Role, Session};
use crate::spool::OpenError;

/// What leads from each version to the next; from nothing to the first. What was released is never changed.
const STEPS: [&str; 1] = [include_str!("schema.sql")];

/// The oldest major version whose statements and settings are used here.
const MAJOR_MIN: i32 = 13;

/// Another relay that makes the tables takes no longer.
const MIGRATION_MAX: Duration = Duration::from_mins(1);

/// What makes the tables, or brings older ones to the last version, for those who do it themselves; the
/// relay does the same.
pub(super) fn migration(schema: &str) -> String {
    script(schema, &STEPS)
}

fn script(schema: &str, steps: &[&str]) -> String {
    let each = steps.iter().zip(1..).map(|(step, version)| {
        let step = step.trim_end();
        format!(
            "\nIF found < {version} THEN\nEXECUTE $step$\n{step}\n$step$;\n\
             UPDATE format SET version = {version};\nEND IF;\n"
        )
    });
    format!(
        include_str!("migration.sql"),
        schema = schema,
        known = steps.len(),
        steps = each.collect::<String>(),
    )
}

/// Looks at the server as a start does, and changes nothing.
pub(super) async fn look(address: &Address, options: &PostgresOptions) -> Result<(), OpenError> {
    let mut session = connect(address, options).await?;
    could_migrate(&mut session, options).await?;
    owns(&mut session, options).await
}

/// Looks at a spool that is there, for whoever only reads it.
pub(super) async fn observe(address: &Address, options: &PostgresOptions) -> Result<(), OpenError> {
    let mut session = connect(address, options).await?;
    if find(&mut session, options, STEPS.len()).await? == STEPS.len() {
        return Ok(());
    }
    let schema = &options.schema;
    Err(refused(format!(
        "the schema `{schema}` holds no spool of this version; look at `url` and `schema`, or let a relay make it"
    )))
}

/// What to do where there are no tables, or older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tables {
    Make,
    /// A relay that has seen them knows that it is at a wrong place.
    Expect,
}

/// A session to write on. Whatever is looked at, is looked at on that very session: after a failover it is
/// another server's, and of several hosts each may be another.
pub(super) async fn writer(
    address: &Address,
    options: &PostgresOptions,
    tables: Tables,
) -> Result<Session, OpenError> {
    let mut session = connect(address, options).await?;
    match tables {
        Tables::Make => migrate(&mut session, options, &STEPS).await?,
        Tables::Expect => are_there(&mut session, options).await?,
    }
    owns(&mut session, options).await?;
    let set_up = address.set_up(&session, &Role::Writer).await;
    set_up.map_err(|error| unreachable(&error, options))?;
    Ok(session)
}

/// A session at a server whose COMMIT is a promise.
async fn connect(address: &Address, options: &PostgresOptions) -> Result<Session, OpenError> {
    let session = address.connect(&Role::Writer).await;
    let session = session.map_err(|error| unreachable(&error, options))?;
    promises(&session, options).await?;
    Ok(session)
}

/// Whether a COMMIT there is worth a 200.
async fn promises(session: &Session, options: &PostgresOptions) -> Result<(), OpenError> {
    let row = session
        .ask(
            "SELECT current_setting('server_version_num')::integer, pg_is_in_recovery(),
                    current_setting('transaction_read_only'), current_setting('fsync'),
                    current_setting('synchronous_commit'), current_setting('server_encoding'),
                    current_setting('full_page_writes'), current_setting('synchronous_standby_names')",
        )
        .await
        .map_err(|error| unreachable(&error, options))?;
    let setting = |column: usize| row.try_get::<_, &str>(column).unwrap_or_default();
    recent(row.try_get(0).unwrap_or_default())?;
    if row.try_get(1).unwrap_or(true) || setting(2) == "on" {
        return Err(refused(
            "the server is a standby, or read-only; name the primary in `url`, or several hosts, of which \
             the one that can be written to is taken",
        ));
    }
    if setting(3) == "off" {
        return Err(refused(
            "`fsync` is off there: a power cut would lose what was answered 200; set `fsync = on`",
        ));
    }
    if setting(4) == "off" {
        return Err(refused(
            "`synchronous_commit` is off there: a crash would lose what was answered 200; set it to `on` for \
             the server, the database and the role, or to `remote_apply`",
        ));
    }
    if setting(5) != "UTF8" {
        return Err(refused(format!(
            "the database's encoding is {}; make one with `ENCODING 'UTF8'`",
            setting(5)
        )));
    }
    if setting(6) == "off" {
        tracing::warn!(
            "`full_page_writes` is off at the server: a power cut may damage pages, unless its file system \
             never writes half of one"
        );
    }
    if setting(4) == "local" && !setting(7).is_empty() {
        tracing::warn!(
            "`synchronous_commit` is `local` at the server: what is answered 200 may be lost in a failover; \
             `on` waits for a standby"
        );
    }
    Ok(())
}

/// Whether a server of this `server_version_num` knows what is asked of it.
fn recent(version: i32) -> Result<(), OpenError> {
    if version >= MAJOR_MIN * 10_000 {
        return Ok(());
    }
    Err(refused(format!(
        "the server is PostgreSQL {}; upgrade it to {MAJOR_MIN} or newer",
        version / 10_000
    )))
}

/// Makes the tables, or brings them to the last version; one relay at a time.
async fn migrate(
    session: &mut Session,
    options: &PostgresOptions,
    steps: &[&str],
) -> Result<(), OpenError> {
    if find(session, options, steps.len()).await? == steps.len() {
        return Ok(());
    }
    let schema = &options.schema;
    let script = format!(
        "SET lock_timeout = {}; {}",
        MIGRATION_MAX.as_millis(),
        script(schema, steps)
    );
    let made = session.batch_within(&script, MIGRATION_MAX).await;
    made.map_err(|error| denied(&error, options))?;
    tracing::info!(schema, version = steps.len(), "made the spool's tables");
    Ok(())
}

async fn are_there(session: &mut Session, options: &PostgresOptions) -> Result<(), OpenError> {
    if find(session, options, STEPS.len()).await? == STEPS.len() {
        return Ok(());
    }
    let schema = &options.schema;
    Err(refused(format!(
        "the spool's tables are gone from the schema `{schema}`: it is another database, or they were dropped; \
         nothing was made there. Lead `url` to the one that has them, or restart the relay to begin anew"
    )))
}

/// Whether the tables are there, or the role may make them.
async fn could_migrate(session: &mut Session, options: &PostgresOptions) -> Result<(), OpenError> {
    if find(session, options, STEPS.len()).await? > 0 {
        return Ok(());
    }
    let may = "SELECT coalesce(
                 (SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = $1),
                 has_database_privilege(current_database(), 'CREATE'))";
    let may = session.query_fresh(may, &[&options.schema]).await;
    let may = may.map_err(|error| denied(&error, options))?;
    match may.first().map(|row| row.try_get(0)) {
        Some(Ok(true)) => Ok(()),
        _ => Err(rights(options)),
    }
}

/// The version of the tables; 0 if there are none.
async fn find(
    session: &mut Session,
    options: &PostgresOptions,
    known: usize,
) -> Result<usize, OpenError> {
    let schema = &options.schema;
    let tables = session
        .query_fresh(
            "SELECT relname::text FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
             WHERE nspname = $1 AND relkind IN ('r', 'p', 'v', 'm', 'f')",
            &[schema],
        )
        .await
        .map_err(|error| denied(&error, options))?;
    let foreign = || {
        refused(format!(
            "the schema `{schema}` holds something that is not a spool of suki-relay; nothing was changed. \
             Name another in `spool.postgres.schema`"
        ))
    };
    if tables.is_empty() {
        return Ok(0);
    }
    let is_format =
        |row: &tokio_postgres::Row| row.try_get::<_, &str>(0).is_ok_and(|name| name == "format");
    if !tables.iter().any(is_format) {
        return Err(foreign());
    }
    let format = format!("SELECT application, version FROM \"{schema}\".format");
    let rows = match session.query_fresh(&format, &[]).await {
        Ok(rows) => rows,
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => return Err(foreign()),
        Err(error) => return Err(denied(&error, options)),
    };
    let [row] = &rows[..] else {
        return Err(foreign());
    };
    let version = row.try_get::<_, i32>(1).ok();
    match (row.try_get::<_, &str>(0), version.map(usize::try_from)) {
        (Ok("suki-relay"), Some(Ok(found))) if found > known => Err(refused(format!(
            "the schema `{schema}` was made by a newer suki-relay (version {found}, this one knows \
             {known}); nothing was changed. Run that one"
        ))),
        (Ok("suki-relay"), Some(Ok(found @ 1..))) => Ok(found),
        _ => Err(foreign()),
    }
}

/// Whether the tables keep what is written to them, and may be written to.
async fn owns(session: &mut Session, options: &PostgresOptions) -> Result<(), OpenError> {
    let schema = &options.schema;
    let tables = session
        .query_fresh(
            "SELECT relname::text, relpersistence = 'u',
                    has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                    AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')
             FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
             WHERE nspname = $1 AND relkind = 'r' ORDER BY relname",
            &[schema],
        )
        .await
        .map_err(|error| denied(&error, options))?;
    for row in &tables {
        let table: &str = row.try_get(0).unwrap_or_default();
        if row.try_get(1).unwrap_or(true) {
            return Err(refused(format!(
                "the table `{schema}.{table}` is unlogged: a crash of the server would empty it; \
                 `ALTER TABLE {schema}.{table} SET LOGGED`"
            )));
        }
        if !row.try_get(2).unwrap_or(false) {
            return Err(rights(options));
        }
    }
    Ok(())
}

fn refused(what: impl Into<String>) -> OpenError {
    OpenError::Server { what: what.into() }
}

fn rights(options: &PostgresOptions) -> OpenError {
    let schema = &options.schema;
    refused(format!(
        "the role of `url` lacks rights: let it own the schema, with \
         `CREATE SCHEMA {schema} AUTHORIZATION …`, or `GRANT CREATE ON DATABASE …` for it to make one; what \
         it needs on tables of another role stands on top of `suki-relay spool migrate --print`"
    ))
}

fn denied(error: &Error, options: &PostgresOptions) -> OpenError {
    match error.code() {
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => rights(options),
        None => unreachable(error, options),
        Some(_) => refused(format!("finding the schema `{}`: {error}", options.schema)),
    }
}

pub(super) fn unreachable(error: &Error, options: &PostgresOptions) -> OpenError {
    let advice = match error.code() {
        Some(code) if code.code().starts_with("28") => "look at the user and password in `url`",
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => {
            "make the database, or name another in `url`"
        }
        Some(code) if *code == SqlState::TOO_MANY_CONNECTIONS => {
            let connections = options.connections;
            return refused(format!(
                "connecting: {error}; this relay needs {connections}: raise the server's \
                 `max_connections` or the role's limit, or lower `pool`"
            ));
        }
        Some(_) => "look at the server's log",
        None if options.tls.is_some() => {
            "look at the host and port in `url`, and whether it speaks TLS with a certificate that `tls` trusts"
        }
        None => "look at the host and port in `url`",
    };
    let what = format!("connecting: {error}; {advice}");
    let may_pass = match error.code() {
        Some(code) => matches!(code.code().get(..2), Some("08" | "57")),
        None => true,
    };
    if may_pass {
        OpenError::ServerAway { what }
    } else {
        refused(what)
    }
}

#[cfg(test)]
mod tests;
