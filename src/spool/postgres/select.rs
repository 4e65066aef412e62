//! Which notifications a filter takes, found in bounded steps. What a state asks is in `disk/select.rs`.

use super::fault::Error;
use super::names::Names;
use super::session::{Param, Session};
use crate::clock::Timestamp;
use crate::notification::Id;
use crate::spool::disk::select::Candidates;
use crate::spool::{Filter, Reason};

/// Candidates looked at in one step. Tests take many steps over a few.
const LOOKED_AT_MAX: i64 = if cfg!(test) { 10 } else { 20_000 };

/// A filter with the numbers of its names.
pub(super) struct Selector {
    candidates: &'static Candidates,
    reason: Option<&'static str>,
    source: Option<i64>,
    pub target: Option<i64>,
    since: Option<i64>,
    /// The ids that are there.
    sequences: Option<Vec<i64>>,
}

/// What one step found.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    /// In order of acceptance.
    pub sequences: Vec<i64>,
    /// Where the next step begins; `None` if nothing is left to look at.
    pub next: Option<i64>,
}

impl Selector {
    /// `None` if it names what the spool has never seen: it takes nothing.
    pub async fn resolve(
        session: &mut Session,
        names: &Names,
        filter: &Filter,
    ) -> Result<Option<Self>, Error> {
        let mut selector = Self {
            candidates: Candidates::of(filter.state, filter.reason),
            reason: filter.reason.map(Reason::as_str),
            source: None,
            target: None,
            since: filter.since.map(Timestamp::as_millis),
            sequences: None,
        };
        for (name, number) in [
            (&filter.source, &mut selector.source),
            (&filter.target, &mut selector.target),
        ] {
            let Some(name) = name else { continue };
            *number = names.find(session, name.as_str()).await?;
            if number.is_none() {
                return Ok(None);
            }
        }
        if let Some(ids) = &filter.ids {
            selector.sequences = Some(sequences_of(session, ids).await?);
        }
        Ok(Some(selector))
    }

    /// The first that match after `after`, at most `limit`.
    pub async fn step(
        &self,
        session: &mut Session,
        after: i64,
        limit: usize,
    ) -> Result<Stretch, Error> {
        let next = match &self.sequences {
            None => self.end_of_step(session, after).await?,
            // They are few, and looked at all at once.
            Some(_) => None,
        };
        let until = next.unwrap_or(i64::MAX);
        let sequences = self.matching(session, after, until, limit).await?;
        let next = if sequences.len() == limit {
            sequences.last().copied()
        } else {
            next
        };
        Ok(Stretch { sequences, next })
    }

    async fn matching(
        &self,
        session: &mut Session,
        after: i64,
        until: i64,
        limit: usize,
    ) -> Result<Vec<i64>, Error> {
        let Candidates {
            plain,
            key,
            among,
            only,
            at_target,
            ..
        } = self.candidates;
        let at_target = at_target.replace(":target", "$6");
        let sql = format!(
            "SELECT DISTINCT {key} FROM {plain}
             WHERE {among} AND {only} AND {key} > $1 AND {key} <= $2
             AND ($3::bigint IS NULL OR n.source = $3)
             AND ($4::bigint IS NULL OR n.received_at >= $4)
             AND ($5::text IS NULL OR n.quarantine = $5)
             AND ($6::bigint IS NULL OR {at_target})
             AND ($7::bigint[] IS NULL OR {key} = ANY ($7))
             ORDER BY {key} LIMIT $8"
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let params: [Param<'_>; 8] = [
            &after,
            &until,
            &self.source,
            &self.since,
            &self.reason,
            &self.target,
            &self.sequences,
            &limit,
        ];
        let rows = session.query_fresh(&sql, &params).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// The candidate that is the last of the step; `None` if there are not so many.
    async fn end_of_step(&self, session: &mut Session, after: i64) -> Result<Option<i64>, Error> {
        let Candidates {
            plain, key, among, ..
        } = self.candidates;
        let sql = format!(
            "SELECT {key} FROM {plain} WHERE {among} AND {key} > $1
             ORDER BY {key} LIMIT 1 OFFSET $2"
        );
        let rows = session
            .query_fresh(&sql, &[&after, &(LOOKED_AT_MAX - 1)])
            .await?;
        rows.first().map(|row| Ok(row.try_get(0)?)).transpose()
    }
}

/// Looks through all marks: ids have no index of their own. The same bytes at two sources have one id.
async fn sequences_of(session: &mut Session, ids: &[Id]) -> Result<Vec<i64>, Error> {
    const FIND: &str = "SELECT seq FROM notification WHERE substring(digest FROM 1 FOR 16) = ANY ($1) ORDER BY seq";
    let ids: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
    let rows = session.query(FIND, &[&ids]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
