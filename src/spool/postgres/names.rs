//! The numbers of names: they never change on one server.
//!
//! After a failover another one may have given a number to another name, if it had not heard of the first. So
//! a number is known on the session that learned it, and nowhere else.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::fault::Error;
use super::session::Session;
use crate::name::Name;

/// What a session has learned.
#[derive(Default)]
pub(super) struct Known {
    numbers: HashMap<String, i64>,
    names: HashMap<i64, Name>,
}

/// The names that numbers stood for when they were met last: to wake and to count by, where a wrong one does
/// no harm.
#[derive(Default)]
pub(super) struct Names {
    met: Mutex<HashMap<i64, Name>>,
}

impl Names {
    /// The number of a name, which gets one if it has none. Not inside a transaction: a number that was
    /// given stays given.
    pub async fn number(&self, session: &mut Session, text: &str) -> Result<i64, Error> {
        loop {
            if let Some(number) = self.find(session, text).await? {
                return Ok(number);
            }
            let make = "INSERT INTO name (text) VALUES ($1) ON CONFLICT DO NOTHING";
            session.query(make, &[&text]).await?;
        }
    }

    /// The number of a name, if the spool has ever met it.
    pub async fn find(&self, session: &mut Session, text: &str) -> Result<Option<i64>, Error> {
        if let Some(number) = session.known.numbers.get(text) {
            return Ok(Some(*number));
        }
        let rows = session
            .query("SELECT id FROM name WHERE text = $1", &[&text])
            .await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let number = row.try_get(0)?;
        self.learn(session, number, text)?;
        Ok(Some(number))
    }

    /// The name of a number.
    pub async fn name(&self, session: &mut Session, number: i64) -> Result<Name, Error> {
        if let Some(name) = session.known.names.get(&number) {
            return Ok(name.clone());
        }
        let rows = session
            .query("SELECT text FROM name WHERE id = $1", &[&number])
            .await?;
        let row = rows.first().ok_or(Error::Foreign("a number of a name"))?;
        self.learn(session, number, row.try_get(0)?)
    }

    /// The name of a number that has been met.
    pub fn met(&self, number: i64) -> Option<Name> {
        self.all_met().get(&number).cloned()
    }

    fn learn(&self, session: &mut Session, number: i64, text: &str) -> Result<Name, Error> {
        let name = Name::new(text).map_err(|_| Error::Foreign("a name"))?;
        session.known.numbers.insert(text.to_owned(), number);
        session.known.names.insert(number, name.clone());
        self.all_met().insert(number, name.clone());
        Ok(name)
    }

    fn all_met(&self) -> MutexGuard<'_, HashMap<i64, Name>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
