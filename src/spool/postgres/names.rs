//! The numbers of names, as far as this relay has met them: they never change.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::fault::Error;
use super::session::Session;
use crate::name::Name;

#[derive(Default)]
pub(super) struct Names {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    numbers: HashMap<String, i64>,
    names: HashMap<i64, Name>,
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
        if let Some(number) = self.known().numbers.get(text) {
            return Ok(Some(*number));
        }
        let rows = session
            .query("SELECT id FROM name WHERE text = $1", &[&text])
            .await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let number = row.try_get(0)?;
        self.learn(number, text)?;
        Ok(Some(number))
    }

    /// The name of a number.
    pub async fn name(&self, session: &mut Session, number: i64) -> Result<Name, Error> {
        if let Some(name) = self.known().names.get(&number) {
            return Ok(name.clone());
        }
        let rows = session
            .query("SELECT text FROM name WHERE id = $1", &[&number])
            .await?;
        let row = rows.first().ok_or(Error::Foreign("a number of a name"))?;
        self.learn(number, row.try_get(0)?)
    }

    /// The name of a number that has been met.
    pub fn met(&self, number: i64) -> Option<Name> {
        self.known().names.get(&number).cloned()
    }

    fn learn(&self, number: i64, text: &str) -> Result<Name, Error> {
        let name = Name::new(text).map_err(|_| Error::Foreign("a name"))?;
        let mut known = self.known();
        known.numbers.insert(text.to_owned(), number);
        known.names.insert(number, name.clone());
        Ok(name)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
