//! How orders that take more than one commit are kept.

use rusqlite::{Result as Sql, Row, params};

use super::Disk;
use super::read::Reader;
use super::writer::Writer;
use crate::clock::Timestamp;
use crate::name::Name;
use crate::spool::ReadError;
use crate::spool::orders::{Errand, Note};

impl Disk {
    pub async fn errands(&self) -> Result<Vec<Errand>, ReadError> {
        self.read(Reader::errands).await
    }
}

impl Reader {
    fn errands(&mut self) -> Sql<Vec<Errand>> {
        let mut find = self.connection.prepare_cached(
            "SELECT id, wording, given_by, given_at, reached, matched, done FROM errand
             ORDER BY given_at, id",
        )?;
        let errands = find.query_map([], errand)?;
        errands.filter_map(Result::transpose).collect()
    }
}

impl Writer<'_> {
    /// Inside the commit of deeds, of which so many changed something.
    pub(super) fn note(&self, note: &Note, done: u64) -> Sql<()> {
        match note {
            Note::None => Ok(()),
            Note::Begun(errand) => {
                let mut keep = self.connection.prepare_cached(
                    "INSERT INTO errand (id, wording, given_by, given_at, reached, matched, done)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?;
                let kept = keep.execute(params![
                    errand.id,
                    errand.wording(),
                    errand.by.as_str(),
                    errand.given_at.as_millis(),
                    errand.reached,
                    number(errand.matched),
                    number(errand.done + done),
                ]);
                kept.map(drop)
            }
            Note::Moved { errand, .. } => {
                let mut moved = self.connection.prepare_cached(
                    "UPDATE errand SET reached = ?2, matched = ?3, done = ?4 WHERE id = ?1",
                )?;
                let (matched, done) = (number(errand.matched), number(errand.done + done));
                moved
                    .execute([errand.id, errand.reached, matched, done])
                    .map(drop)
            }
            Note::Ended { id, .. } => {
                let mut end = self
                    .connection
                    .prepare_cached("DELETE FROM errand WHERE id = ?1")?;
                end.execute([id]).map(drop)
            }
        }
    }
}

/// `None` if it is in words that this version does not know: another one may.
fn errand(row: &Row<'_>) -> Sql<Option<Errand>> {
    let (wording, by): (String, String) = (row.get(1)?, row.get(2)?);
    let (Some((owing, filter)), Ok(by)) = (Errand::read(&wording), Name::new(&by)) else {
        return Ok(None);
    };
    let (matched, done): (i64, i64) = (row.get(5)?, row.get(6)?);
    Ok(Some(Errand {
        id: row.get(0)?,
        owing,
        filter,
        by,
        given_at: Timestamp::from_millis(row.get(3)?),
        reached: row.get(4)?,
        matched: matched.unsigned_abs(),
        done: done.unsigned_abs(),
    }))
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
