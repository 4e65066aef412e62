//! The writer's statements, prepared once. One method a statement; nothing is decided here.

use rusqlite::{Connection, OptionalExtension, Result, Statement, params, params_from_iter};

use super::delivery;
use super::ledger::{Posting, Step};
use super::seal::Seal;
use crate::clock::Timestamp;
use crate::notification::Notification;
use crate::spool::sealed::Columns;
use crate::spool::{DeliveryState, Reason, Verdict};

pub(super) struct Rows<'c> {
    connection: &'c Connection,
    seal: Seal,
    begin: Statement<'c>,
    commit: Statement<'c>,
    keep_notification: Statement<'c>,
    keep_content: Statement<'c>,
    keep_delivery: Statement<'c>,
    verdict: Statement<'c>,
    advance: Statement<'c>,
    find_delivery: Statement<'c>,
    put_delivery: Statement<'c>,
    find_notification: Statement<'c>,
    standing: Statement<'c>,
    stand: Statement<'c>,
    let_go: Statement<'c>,
    post: Statement<'c>,
    oldest_settled: Statement<'c>,
    drop_content: Statement<'c>,
    drop_deliveries: Statement<'c>,
    drop_notification: Statement<'c>,
    mark_emptied: Statement<'c>,
    page_count: Statement<'c>,
    freelist_count: Statement<'c>,
}

/// Numbers that stand for names on disk.
#[derive(Clone, Copy)]
pub(super) struct Names {
    pub source: i64,
    pub secret: i64,
}

/// How a notification stands.
#[derive(Clone, Copy)]
pub(super) struct Standing {
    pub pending: i64,
    pub dead: i64,
    pub quarantined: bool,
}

/// What an operator's order has to know of a notification.
pub(in crate::spool) struct Held {
    pub received_at: Timestamp,
    pub quarantine: Option<Reason>,
    /// Only its mark is left.
    pub emptied: bool,
}

/// What changes in how a notification stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::spool) struct Change {
    pub pending: i64,
    pub dead: i64,
    /// It leaves quarantine.
    pub let_go: bool,
}

impl<'c> Rows<'c> {
    pub fn prepare(connection: &'c Connection, seal: Seal) -> Result<Self> {
        let prepare = |sql: &str| connection.prepare(sql);
        Ok(Self {
            connection,
            seal,
            begin: prepare("BEGIN IMMEDIATE")?,
            commit: prepare("COMMIT")?,
            keep_notification: prepare(
                "INSERT INTO notification
                     (seq, source, signed_at, digest, verdict, quarantine, received_at, pending, dead,
                      settled_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, ?9)
                 ON CONFLICT (source, signed_at, digest) DO NOTHING",
            )?,
            keep_content: prepare(&format!(
                "INSERT INTO content (seq, secret, {}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                Columns::NAMES
            ))?,
            keep_delivery: prepare(
                "INSERT INTO delivery (seq, target, state, attempts, due_at)
                 VALUES (?1, ?2, 0, 0, ?3)",
            )?,
            verdict: prepare(
                "SELECT verdict FROM notification
                 WHERE source = ?1 AND signed_at = ?2 AND digest = ?3",
            )?,
            advance: prepare("UPDATE position SET next_seq = ?1")?,
            find_delivery: prepare(&format!(
                "SELECT {} FROM delivery WHERE seq = ?1 AND target = ?2",
                delivery::Row::COLUMNS
            ))?,
            put_delivery: prepare(
                "UPDATE delivery
                 SET state = ?3, attempts = ?4, due_at = ?5, owed_since = ?6, replayed_after = ?7,
                     resume_at = ?8, first_attempt_at = ?9, history = ?10
                 WHERE seq = ?1 AND target = ?2",
            )?,
            find_notification: prepare(
                "SELECT received_at, quarantine, emptied FROM notification WHERE seq = ?1",
            )?,
            standing: prepare(
                "SELECT pending, dead, quarantine IS NOT NULL FROM notification WHERE seq = ?1",
            )?,
            stand: prepare(
                "UPDATE notification SET pending = ?2, dead = ?3, settled_at = ?4 WHERE seq = ?1",
            )?,
            let_go: prepare("UPDATE notification SET quarantine = NULL WHERE seq = ?1")?,
            post: prepare(&post())?,
            oldest_settled: prepare(
                "SELECT seq FROM notification
                 WHERE emptied = ?1 AND settled_at <= ?2 ORDER BY settled_at LIMIT ?3",
            )?,
            drop_content: prepare("DELETE FROM content WHERE seq = ?1")?,
            drop_deliveries: prepare("DELETE FROM delivery WHERE seq = ?1 RETURNING target, state")?,
            drop_notification: prepare("DELETE FROM notification WHERE seq = ?1")?,
            mark_emptied: prepare("UPDATE notification SET emptied = 1 WHERE seq = ?1")?,
            page_count: prepare("PRAGMA page_count")?,
            freelist_count: prepare("PRAGMA freelist_count")?,
        })
    }

    pub fn begin(&mut self) -> Result<()> {
        self.begin.execute([]).map(drop)
    }

    pub fn commit(&mut self) -> Result<()> {
        self.commit.execute([]).map(drop)
    }

    /// Undoes a transaction, if there is one: SQLite ends some by itself when they fail.
    pub fn rollback(&mut self) -> Result<()> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        self.connection.execute_batch("ROLLBACK")
    }

    /// The number of a name, which gets one if it has none.
    pub fn name(&mut self, text: &str) -> Result<i64> {
        let mut find = self
            .connection
            .prepare_cached("SELECT id FROM name WHERE text = ?1")?;
        if let Some(id) = find.query_row([text], |row| row.get(0)).optional()? {
            return Ok(id);
        }
        let mut make = self
            .connection
            .prepare_cached("INSERT INTO name (text) VALUES (?1)")?;
        make.insert([text])
    }

    /// False if the same bytes were kept before at this source.
    pub fn keep_notification(
        &mut self,
        seq: i64,
        source: i64,
        notification: &Notification,
        verdict: Verdict,
        quarantine: Option<&'static str>,
        pending: i64,
    ) -> Result<bool> {
        let received_at = notification.received_at.as_millis();
        let settled_at = (pending == 0 && quarantine.is_none()).then_some(received_at);
        let kept = self.keep_notification.execute(params![
            seq,
            source,
            signed_at(notification),
            self.seal.mark(*notification.digest())?,
            verdict.code(),
            quarantine,
            received_at,
            pending,
            settled_at,
        ])?;
        Ok(kept == 1)
    }

    pub fn keep_content(
        &mut self,
        seq: i64,
        secret: i64,
        notification: &Notification,
    ) -> Result<()> {
        let plain = Columns::plain(
            &notification.generated_at,
            &notification.signature,
            notification.content_type.as_deref(),
            &notification.body,
        );
        let content = plain.sealed(self.seal.keys(), notification.id.as_bytes())?;
        self.keep_content
            .execute(params![
                seq,
                secret,
                content.sealed_by,
                content.seal,
                content.generated_at,
                content.signature,
                content.content_type,
                content.body,
            ])
            .map(drop)
    }

    pub fn keep_delivery(&mut self, seq: i64, target: i64, due_at: Timestamp) -> Result<()> {
        self.keep_delivery
            .execute([seq, target, due_at.as_millis()])
            .map(drop)
    }

    pub fn verdict(&mut self, source: i64, notification: &Notification) -> Result<Option<Verdict>> {
        let code: Option<i64> = self
            .verdict
            .query_row(
                params![
                    source,
                    signed_at(notification),
                    self.seal.mark(*notification.digest())?
                ],
                |row| row.get(0),
            )
            .optional()?;
        Ok(code.map(Verdict::from_code))
    }

    /// As [`Rows::verdict`], by the source's name.
    pub fn find_verdict(&mut self, notification: &Notification) -> Result<Option<Verdict>> {
        let mut find = self
            .connection
            .prepare_cached("SELECT id FROM name WHERE text = ?1")?;
        let source = notification.source.as_str();
        match find.query_row([source], |row| row.get(0)).optional()? {
            Some(source) => self.verdict(source, notification),
            None => Ok(None),
        }
    }

    pub fn advance(&mut self, next_seq: i64) -> Result<()> {
        self.advance.execute([next_seq]).map(drop)
    }

    pub fn find_delivery(&mut self, seq: i64, target: i64) -> Result<Option<delivery::Row>> {
        self.find_delivery
            .query_row([seq, target], delivery::Row::read)
            .optional()
    }

    pub fn put_delivery(&mut self, seq: i64, target: i64, row: &delivery::Row) -> Result<()> {
        let moment = |at: Option<Timestamp>| at.map(Timestamp::as_millis);
        self.put_delivery
            .execute(params![
                seq,
                target,
                row.state as i64,
                row.attempts,
                row.due_at.as_millis(),
                moment(row.owed_since),
                row.replayed_after,
                moment(row.resume_at),
                moment(row.first_attempt_at),
                row.history.as_bytes(),
            ])
            .map(drop)
    }

    /// Adds a row that was not there.
    pub fn add_delivery(&mut self, seq: i64, target: i64, row: &delivery::Row) -> Result<()> {
        self.keep_delivery(seq, target, row.due_at)?;
        self.put_delivery(seq, target, row)
    }

    pub fn find_notification(&mut self, seq: i64) -> Result<Option<Held>> {
        let held = self.find_notification.query_row([seq], |row| {
            Ok(Held {
                received_at: Timestamp::from_millis(row.get(0)?),
                quarantine: row.get_ref(1)?.as_str_or_null()?.and_then(Reason::parse),
                emptied: row.get(2)?,
            })
        });
        held.optional()
    }

    /// How the notification stands after a change.
    ///
    /// Asked and told apart: `RETURNING` makes SQLite keep what is returned in a table of its own, and copies of
    /// the pages that it changes, which is twice the work.
    pub fn stand(&mut self, seq: i64, change: Change, at: Timestamp) -> Result<Standing> {
        let after = self.standing.query_row([seq], |row| {
            let quarantined: bool = row.get(2)?;
            Ok(Standing {
                pending: row.get::<_, i64>(0)? + change.pending,
                dead: row.get::<_, i64>(1)? + change.dead,
                quarantined: quarantined && !change.let_go,
            })
        })?;
        let settled = after.pending == 0 && after.dead == 0 && !after.quarantined;
        let settled_at = settled.then_some(at.as_millis());
        self.stand
            .execute(params![seq, after.pending, after.dead, settled_at])?;
        if change.let_go {
            self.let_go.execute([seq])?;
        }
        Ok(after)
    }

    pub fn post(&mut self, target: i64, posting: &Posting) -> Result<()> {
        let values = std::iter::once(&target).chain(posting);
        self.post.execute(params_from_iter(values)).map(drop)
    }

    /// Notifications settled at `until` or before, oldest first.
    pub fn oldest_settled(
        &mut self,
        emptied: bool,
        until: Timestamp,
        limit: i64,
    ) -> Result<Vec<i64>> {
        self.oldest_settled
            .query_map([i64::from(emptied), until.as_millis(), limit], |row| {
                row.get(0)
            })?
            .collect()
    }

    /// Drops what came; the mark for duplicates stays. Returns the deliveries that went, by target.
    pub fn empty(&mut self, seq: i64) -> Result<Vec<(i64, DeliveryState)>> {
        self.mark_emptied.execute([seq])?;
        self.drop_all(seq)
    }

    /// As [`Rows::empty`], and the mark goes too.
    pub fn forget(&mut self, seq: i64) -> Result<Vec<(i64, DeliveryState)>> {
        self.drop_notification.execute([seq])?;
        self.drop_all(seq)
    }

    fn drop_all(&mut self, seq: i64) -> Result<Vec<(i64, DeliveryState)>> {
        self.drop_content.execute([seq])?;
        let gone = self
            .drop_deliveries
            .query_map([seq], |row| Ok((row.get(0)?, delivery::state(row, 1)?)))?;
        gone.collect()
    }

    /// Pages that hold something, and pages that hold nothing.
    pub fn pages(&mut self) -> Result<(i64, i64)> {
        let all: i64 = self.page_count.query_row([], |row| row.get(0))?;
        let free: i64 = self.freelist_count.query_row([], |row| row.get(0))?;
        Ok((all - free, free))
    }
}

/// The same for the same bytes, and close together for what was signed close together.
fn signed_at(notification: &Notification) -> i64 {
    notification.generated_at.parse().unwrap_or(0)
}

fn post() -> String {
    let values: Vec<String> = (1..=Step::ALL.len() + 1).map(|n| format!("?{n}")).collect();
    let add = Step::COLUMNS.map(|column| format!("{column} = {column} + excluded.{column}"));
    format!(
        "INSERT INTO ledger (target, {}) VALUES ({}) ON CONFLICT (target) DO UPDATE SET {}",
        Step::COLUMNS.join(", "),
        values.join(", "),
        add.join(", ")
    )
}
