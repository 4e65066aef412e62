//! One connection to the server: how it is opened and set up, and how long anything on it may take.
//!
//! Every question has a time limit here, beside the server's own: a network that swallows packets ends
//! neither. A session with an answer outstanding is not used again.
//!
//! Plans are pinned: the statements of the request path each have one index that serves them, and the
//! planner, on tables that go from empty to millions of rows within an hour, would go by stale counts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Connection, NoTls, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::fault::Error;
use super::names::Known;
use super::options::PostgresOptions;

pub(super) type Param<'a> = &'a (dyn ToSql + Sync);

/// The longest wait for one of the server's addresses to answer.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Where the server is, and what every session there begins with.
#[derive(Clone)]
pub(super) struct Address {
    server: tokio_postgres::Config,
    tls: Option<Arc<ClientConfig>>,
    runtime: Handle,
    schema: String,
    pub patience: Duration,
}

/// What a session is for.
#[derive(Clone)]
pub(super) enum Role {
    /// Its commits are what was promised: the server's own setting says how durable they are.
    Writer,
    /// Claims and reads: what a crash takes back of them is claimed again.
    Reader,
    /// Payloads of notifications go there.
    Listener(mpsc::Sender<String>),
}

pub(super) struct Session {
    client: Client,
    statements: HashMap<&'static str, Statement>,
    pub known: Known,
    warned: Arc<AtomicBool>,
    /// Something on it did not end: it is closed, not used again.
    spoiled: bool,
    patience: Duration,
    tls: Option<Arc<ClientConfig>>,
}

impl Address {
    /// # Errors
    /// What is wrong with the URL, in words that do not quote it.
    pub fn new(options: &PostgresOptions, runtime: Handle) -> Result<Self, String> {
        let mut server = options.server()?;
        let mode = if options.tls.is_some() {
            SslMode::Require
        } else {
            SslMode::Disable
        };
        server
            .ssl_mode(mode)
            .application_name("suki-relay")
            .connect_timeout(options.statement_timeout.min(CONNECT_MAX))
            .tcp_user_timeout(options.statement_timeout)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3);
        Ok(Self {
            server,
            tls: options.tls.as_ref().map(|tls| tls.config.clone()),
            runtime,
            schema: options.schema.clone(),
            patience: options.statement_timeout,
        })
    }

    /// A session that finds the spool's tables, on a server that can be written to.
    pub async fn open(&self, role: Role) -> Result<Session, Error> {
        let session = self.connect(&role).await?;
        self.set_up(&session, &role).await?;
        Ok(session)
    }

    /// Makes a session as the server gave it one that finds the tables.
    pub async fn set_up(&self, session: &Session, role: &Role) -> Result<(), Error> {
        session.batch(&self.settings(role)).await?;
        let row = session
            .ask("SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'");
        let read_only: bool = row.await?.try_get(0)?;
        if read_only {
            return Err(Error::ReadOnly);
        }
        if matches!(role, Role::Listener(_)) {
            session
                .batch(&format!("LISTEN \"{}\"", self.schema))
                .await?;
        }
        Ok(())
    }

    /// A session as the server gives it. On the spool's own runtime: it must not end with the caller's.
    pub async fn connect(&self, role: &Role) -> Result<Session, Error> {
        let (address, role) = (self.clone(), role.clone());
        let patience = self.patience + CONNECT_MAX;
        let connecting = async move { timeout(patience, address.connect_here(role)).await };
        let connected = self.runtime.spawn(connecting).await;
        connected
            .map_err(|_| Error::TimedOut)?
            .map_err(|_| Error::TimedOut)?
    }

    async fn connect_here(&self, role: Role) -> Result<Session, Error> {
        let warned = Arc::new(AtomicBool::new(false));
        let heard = match role {
            Role::Listener(heard) => Some(heard),
            Role::Writer | Role::Reader => None,
        };
        let client = if let Some(tls) = &self.tls {
            let tls = MakeRustlsConnect::new(ClientConfig::clone(tls));
            let (client, connection) = self.server.connect(tls).await?;
            tokio::spawn(drive(connection, warned.clone(), heard));
            client
        } else {
            let (client, connection) = self.server.connect(NoTls).await?;
            tokio::spawn(drive(connection, warned.clone(), heard));
            client
        };
        Ok(Session {
            client,
            statements: HashMap::new(),
            known: Known::default(),
            warned,
            spoiled: false,
            patience: self.patience,
            tls: self.tls.clone(),
        })
    }

    fn settings(&self, role: &Role) -> String {
        let millis = self.patience.as_millis();
        // A timeout that ended a commit's wait for its standby would make the server call it committed.
        let statement_timeout = if matches!(role, Role::Writer) {
            0
        } else {
            millis
        };
        let durability = match role {
            Role::Writer => "",
            Role::Reader | Role::Listener(_) => "SET synchronous_commit = off;",
        };
        format!(
            "SET search_path = \"{}\";
             SET statement_timeout = {statement_timeout};
             SET lock_timeout = {millis};
             SET idle_in_transaction_session_timeout = {millis};
             SET default_transaction_isolation = 'read committed';
             SET jit = off;
             SET plan_cache_mode = force_generic_plan;
             SET enable_seqscan = off; SET enable_bitmapscan = off;
             SET enable_hashjoin = off; SET enable_mergejoin = off;
             {durability}",
            self.schema
        )
    }
}

impl Session {
    /// One answer, to a statement that is asked once in a session.
    pub async fn ask(&self, sql: &str) -> Result<Row, Error> {
        let asked = timeout(self.patience, self.client.query_one(sql, &[])).await;
        Ok(asked.map_err(|_| Error::TimedOut)??)
    }

    /// Statements without parameters and without answers.
    pub async fn batch(&self, sql: &str) -> Result<(), Error> {
        self.batch_within(sql, self.patience).await
    }

    pub async fn batch_within(&self, sql: &str, patience: Duration) -> Result<(), Error> {
        let done = timeout(patience, self.client.batch_execute(sql)).await;
        Ok(done.map_err(|_| Error::TimedOut)??)
    }

    pub async fn query(
        &mut self,
        sql: &'static str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Error> {
        let statement = self.statement(sql).await?;
        self.spoiled = true;
        let rows = timeout(self.patience, self.client.query(&statement, params)).await;
        let rows = rows.map_err(|_| Error::TimedOut)?;
        self.spoiled = false;
        Ok(rows?)
    }

    /// As [`Session::query`], for a statement that is not worth keeping, within a time of its own.
    pub async fn query_once(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
        patience: Duration,
    ) -> Result<Vec<Row>, Error> {
        self.spoiled = true;
        let rows = timeout(patience, self.client.query(sql, params)).await;
        let rows = rows.map_err(|_| Error::TimedOut)?;
        self.spoiled = false;
        Ok(rows?)
    }

    /// As [`Session::query`], for a statement that is made for its question.
    pub async fn query_fresh(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Error> {
        self.query_once(sql, params, self.patience).await
    }

    /// Prepared once in a session.
    pub async fn statement(&mut self, sql: &'static str) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let prepared = timeout(self.patience, self.client.prepare(sql)).await;
        let statement = prepared.map_err(|_| Error::TimedOut)??;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    /// For statements that are sent without waiting for the answers of those before.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Between here and [`Session::mend`] it must not be used by anybody else.
    pub const fn spoil(&mut self) {
        self.spoiled = true;
    }

    pub const fn mend(&mut self) {
        self.spoiled = false;
    }

    pub fn is_usable(&self) -> bool {
        !self.spoiled && !self.client.is_closed()
    }

    /// Whether the server warned since this was asked last.
    pub fn was_warned(&self) -> bool {
        self.warned.swap(false, Ordering::AcqRel)
    }

    /// Asks the server to give up what it is at: without that, a session that nobody waits for any more
    /// stays as long as what it waits for.
    pub fn abandon(self, runtime: &Handle) {
        let Self {
            client,
            tls,
            patience,
            ..
        } = self;
        let token = client.cancel_token();
        drop(client);
        runtime.spawn(async move {
            // If it does not arrive, the server's own keepalives end the session.
            let _ = timeout(patience, cancel(token, tls)).await;
        });
    }
}

async fn cancel(
    token: CancelToken,
    tls: Option<Arc<ClientConfig>>,
) -> Result<(), tokio_postgres::Error> {
    match tls {
        Some(tls) => {
            token
                .cancel_query(MakeRustlsConnect::new(ClientConfig::clone(&tls)))
                .await
        }
        None => token.cancel_query(NoTls).await,
    }
}

/// Carries what the server says; ends with the connection.
async fn drive<S, T>(
    mut connection: Connection<S, T>,
    warned: Arc<AtomicBool>,
    heard: Option<mpsc::Sender<String>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    // An error ends the connection; whoever has asked is told by its own answer.
    while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            // It comes before the answer that it is about.
            AsyncMessage::Notice(notice) if notice.severity() == "WARNING" => {
                warned.store(true, Ordering::Release);
            }
            AsyncMessage::Notification(notification) => {
                if let Some(heard) = &heard {
                    // Full: whoever reads them has not looked at the last ones, and looks at everything.
                    let _ = heard.try_send(notification.payload().to_owned());
                }
            }
            _ => {}
        }
    }
}
