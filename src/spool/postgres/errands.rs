//! How orders that take more than one commit are kept, and whose they are: one relay's at a time, as long as
//! it is heard of.

use tokio_postgres::Row;

use super::fault::Error;
use super::session::{Param, Session};
use super::{Postgres, Shared, record};
use crate::clock::Timestamp;
use crate::spool::ReadError;
use crate::spool::orders::{Errand, Note};

impl Postgres {
    pub async fn errands(&self) -> Result<Vec<Errand>, ReadError> {
        const ALL: &str =
            "SELECT id, wording, given_by, given_at, reached, matched, done FROM errand
             ORDER BY given_at, id";
        self.told(self.read_errands(ALL, &[]).await)
    }

    pub async fn adopt_errand(&self, id: i64) -> Result<Option<Errand>, ReadError> {
        const ADOPT: &str = "UPDATE errand AS e SET owner = $2
             WHERE id = $1 AND (owner = $2 OR NOT EXISTS (
                 SELECT 1 FROM relay AS r WHERE r.id = e.owner
                 AND alive_until > (extract(epoch FROM clock_timestamp()) * 1000)::bigint))
             RETURNING id, wording, given_by, given_at, reached, matched, done";
        let relay = self.shared.lease.relay;
        let adopted = self.read_errands(ADOPT, &[&id, &relay]).await;
        Ok(self.told(adopted)?.pop())
    }

    async fn read_errands(
        &self,
        sql: &'static str,
        params: &[Param<'_>],
    ) -> Result<Vec<Errand>, Error> {
        let mut session = self.shared.readers.lend_unhurried().await?;
        let rows = session.query(sql, params).await?;
        rows.iter()
            .filter_map(|row| errand(row).transpose())
            .collect()
    }
}

/// Inside the transaction of deeds, of which so many changed something. False if the order is another's, or
/// is not where it was thought to be: then nothing of this must be committed.
pub(super) async fn note(
    shared: &Shared,
    session: &mut Session,
    note: &Note,
    done: u64,
) -> Result<bool, Error> {
    const BEGIN: &str =
        "INSERT INTO errand (id, wording, given_by, given_at, reached, matched, done, owner)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id";
    const MOVE: &str = "UPDATE errand SET reached = $4, matched = $5, done = $6
         WHERE id = $1 AND owner = $2 AND reached = $3 RETURNING id";
    const END: &str =
        "DELETE FROM errand WHERE id = $1 AND owner = $2 AND reached = $3 RETURNING id";
    let relay = shared.lease.relay;
    let noted = match note {
        Note::None => return Ok(true),
        Note::Begun(errand) => {
            let (wording, by) = (errand.wording(), errand.by.as_str());
            let given_at = errand.given_at.as_millis();
            let (matched, done) = (number(errand.matched), number(errand.done + done));
            let params: [Param<'_>; 8] = [
                &errand.id,
                &wording,
                &by,
                &given_at,
                &errand.reached,
                &matched,
                &done,
                &relay,
            ];
            session.query(BEGIN, &params).await?
        }
        Note::Moved { from, errand } => {
            let (matched, done) = (number(errand.matched), number(errand.done + done));
            let params: [Param<'_>; 6] =
                [&errand.id, &relay, from, &errand.reached, &matched, &done];
            session.query(MOVE, &params).await?
        }
        Note::Ended { from, id } => session.query(END, &[id, &relay, from]).await?,
    };
    Ok(!noted.is_empty())
}

/// `None` if it is in words that this version does not know: another one may.
fn errand(row: &Row) -> Result<Option<Errand>, Error> {
    let Some((owing, filter)) = Errand::read(row.try_get(1)?) else {
        return Ok(None);
    };
    let (matched, done): (i64, i64) = (row.try_get(5)?, row.try_get(6)?);
    Ok(Some(Errand {
        id: row.try_get(0)?,
        owing,
        filter,
        by: record::name(row, 2)?,
        given_at: Timestamp::from_millis(row.try_get(3)?),
        reached: row.try_get(4)?,
        matched: matched.unsigned_abs(),
        done: done.unsigned_abs(),
    }))
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
