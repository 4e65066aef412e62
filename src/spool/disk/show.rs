//! What the readers show an operator.

use std::collections::HashMap;

use rusqlite::{Connection, Result as Sql};

use super::Disk;
use super::delivery::Row as DeliveryRow;
use super::fault::is_damage;
use super::history;
use super::read::Reader;
use super::record::{self, named};
use super::seal::Seal;
use super::select::Selector;
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::{Id, Record};
use crate::spool::metrics::Op;
use crate::spool::{
    Content, Cursor, Delivery, DeliveryState, Entry, Event, Filter, Found, Page, ReadError, Reason,
    Verdict,
};

type Names = HashMap<i64, Name>;

impl Disk {
    /// What one step finds; the page may be short, or empty, and not the last.
    pub async fn list_step(
        &self,
        filter: &Filter,
        after: Cursor,
        limit: usize,
    ) -> Result<Page, ReadError> {
        let page = self.look_through(filter, after, limit).await?;
        for _ in &page.unreadable {
            self.shared.metrics.error(Op::Read);
        }
        Ok(page)
    }

    /// As [`Disk::list_step`], for one who looks again and again: what cannot be read is not counted.
    pub async fn look_through(
        &self,
        filter: &Filter,
        after: Cursor,
        limit: usize,
    ) -> Result<Page, ReadError> {
        let filter = filter.clone();
        self.read(move |reader| reader.list(&filter, after, limit))
            .await
    }

    pub async fn find(&self, id: Id) -> Result<Vec<Found>, ReadError> {
        let (found, unreadable) = self.read(move |reader| reader.find(id)).await?;
        for sequence in &unreadable {
            self.shared.metrics.error(Op::Read);
            tracing::error!(
                sequence,
                "not shown: its record is damaged. Look at the volume"
            );
        }
        match unreadable.first() {
            Some(sequence) if found.is_empty() => Err(ReadError::new(format!(
                "the record of this notification, number {sequence}, is damaged; look at the volume"
            ))),
            _ => Ok(found),
        }
    }
}

impl Reader {
    fn list(&mut self, filter: &Filter, after: Cursor, limit: usize) -> Sql<Page> {
        let snapshot = self.connection.unchecked_transaction()?;
        let Some(selector) = Selector::resolve(&snapshot, &self.seal, filter)? else {
            return Ok(Page::default());
        };
        let step = selector.step(&snapshot, after.0, limit)?;
        let mut page = Page {
            next: step.next.map(Cursor),
            unreadable: step.unreadable,
            ..Page::default()
        };
        for sequence in step.sequences {
            match entry(&snapshot, &self.seal, &mut self.names, sequence) {
                Err(error) if is_damage(&error) => page.unreadable.push(sequence),
                entry => page.entries.push(entry?),
            }
        }
        Ok(page)
    }

    pub fn record(&mut self, sequence: i64) -> Sql<Option<Record>> {
        record::read(&self.connection, &self.seal, &mut self.names, sequence)
    }

    /// With the sequences of those that cannot be read.
    fn find(&mut self, id: Id) -> Sql<(Vec<Found>, Vec<i64>)> {
        let snapshot = self.connection.unchecked_transaction()?;
        let ids = Some(vec![id]);
        let filter = Filter {
            ids,
            ..Filter::default()
        };
        let selector = Selector::resolve(&snapshot, &self.seal, &filter)?;
        let Some(selector) = selector else {
            return Ok(Default::default());
        };
        let step = selector.step(&snapshot, 0, usize::MAX)?;
        let (mut found, mut unreadable) = (Vec::new(), step.unreadable);
        let (seal, names) = (&self.seal, &mut self.names);
        for sequence in step.sequences {
            match entry(&snapshot, seal, names, sequence) {
                Err(error) if is_damage(&error) => unreadable.push(sequence),
                entry => found.push(Found {
                    entry: entry?,
                    record: record::read(&snapshot, seal, names, sequence)?,
                }),
            }
        }
        Ok((found, unreadable))
    }
}

fn entry(connection: &Connection, seal: &Seal, names: &mut Names, sequence: i64) -> Sql<Entry> {
    let mut find = connection.prepare_cached(
        "SELECT n.digest, n.source, n.received_at, n.verdict, n.quarantine, n.settled_at,
                c.secret, length(c.body)
         FROM notification AS n LEFT JOIN content AS c USING (seq) WHERE seq = ?1",
    )?;
    find.query_row([sequence], |row| {
        Ok(Entry {
            sequence,
            id: id(seal, row.get_ref(0)?.as_blob()?),
            source: named(connection, names, row.get(1)?)?,
            received_at: Timestamp::from_millis(row.get(2)?),
            verdict: Verdict::from_code(row.get(3)?),
            quarantine: row.get_ref(4)?.as_str_or_null()?.and_then(Reason::parse),
            settled_at: row.get::<_, Option<i64>>(5)?.map(Timestamp::from_millis),
            content: match row.get(6)? {
                Some(secret) => Some(Content {
                    secret: named(connection, names, secret)?,
                    body_bytes: row.get::<_, u32>(7)?.into(),
                }),
                None => None,
            },
            deliveries: deliveries(connection, names, sequence)?,
        })
    })
}

fn deliveries(connection: &Connection, names: &mut Names, sequence: i64) -> Sql<Vec<Delivery>> {
    let columns = DeliveryRow::COLUMNS;
    let mut find = connection.prepare_cached(&format!(
        "SELECT {columns}, target FROM delivery WHERE seq = ?1"
    ))?;
    let mut rows = find.query([sequence])?;
    let mut deliveries = Vec::new();
    while let Some(row) = rows.next()? {
        let delivery = DeliveryRow::read(row)?;
        deliveries.push(Delivery {
            target: named(connection, names, row.get(DeliveryRow::COLUMN_COUNT)?)?,
            state: delivery.state,
            attempts: delivery.attempts,
            first_attempt_at: delivery.first_attempt_at,
            due_at: (delivery.state == DeliveryState::Pending).then_some(delivery.due_at),
            history: delivery
                .history
                .events()
                .map(|event| told(connection, names, event))
                .collect::<Sql<_>>()?,
        });
    }
    Ok(deliveries)
}

fn told(connection: &Connection, names: &mut Names, event: history::Event) -> Sql<Event> {
    Ok(Event {
        kind: event.kind,
        at: event.at,
        word: named(connection, names, event.word)?,
        took: event.took,
    })
}

/// The id in a mark; zeros if that is damaged.
fn id(seal: &Seal, mark: &[u8]) -> Id {
    let mut id = [0; Id::BYTES];
    if let Ok(digest) = seal.digest(mark) {
        id.copy_from_slice(&digest[..Id::BYTES]);
    }
    Id::from_bytes(id)
}
