//! Opens an image with the real spool, and holds what is found against the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use suki_relay::spool::{Due, Kept, Spool, Submission};
use tokio::task::JoinSet;

use super::ledger::Ledger;
use super::script::{LATER, TARGETS, again, name, open};

/// What is wrong with what was found.
pub type Violation = String;

/// Deliveries that are due, by number and target, with the attempts made.
type Pending = BTreeMap<(u32, &'static str), u32>;

/// `sent` is all that was ever submitted, by number.
pub async fn check(folder: &Path, sent: &[Submission], ledger: &Ledger) -> Result<(), Violation> {
    let spool = open(folder)?;
    let pending = pending(&spool, sent, ledger).await?;
    let counts = spool.counts().await.map_err(|error| error.to_string())?;
    let present = submit_again(&spool, sent, ledger).await?;
    for number in &present {
        deliveries_are_whole(*number, sent, ledger, &pending)?;
    }
    for target in TARGETS {
        let (delivered, dead) = ledger.sums(target);
        let found = counts
            .targets
            .get(&name(target))
            .copied()
            .unwrap_or_default();
        let found = [found.delivered, found.dead].map(|count| u32::try_from(count).expect("few"));
        if !delivered.allows(found[0]) || !dead.allows(found[1]) {
            return Err(format!(
                "{target}: {found:?} settled, {delivered:?}, {dead:?}"
            ));
        }
        let owed = pending.keys().filter(|(_, to)| *to == target).count();
        let whole = present
            .iter()
            .filter(|number| is_for(&sent[**number as usize], target))
            .count();
        if owed + found[0] as usize + found[1] as usize != whole {
            return Err(format!(
                "{target}: {owed} due and {found:?} settled of {whole}"
            ));
        }
    }
    let audit = spool.audit().await.map_err(|error| error.to_string())?;
    if !audit.is_clean() {
        return Err(format!("{:?}", audit.discrepancies));
    }
    drop(spool);
    contents_are_exact(folder, sent, ledger)
}

fn is_for(sent: &Submission, target: &str) -> bool {
    sent.targets.iter().any(|name| name.as_str() == target)
}

async fn pending(
    spool: &Spool,
    sent: &[Submission],
    ledger: &Ledger,
) -> Result<Pending, Violation> {
    let mut pending = Pending::new();
    for target in TARGETS {
        let page = spool.due(&name(target), LATER, 10_000).await;
        let page = page.map_err(|error| error.to_string())?;
        if !page.unreadable.is_empty() || page.more {
            return Err(format!("{target}: {:?} cannot be read", page.unreadable));
        }
        for due in page.deliveries {
            let number = Ledger::number_of(&due.record.body);
            let number = number.filter(|number| ledger.tried.contains(number));
            let number = number.ok_or("what was never submitted is due")?;
            let sent = &sent[number as usize];
            if !is_same(&due, sent) || !sent.targets.contains(&due.key.target) {
                return Err(format!("{number} is due at {target} other than submitted"));
            }
            if pending.insert((number, target), due.attempts).is_some() {
                return Err(format!("{number} is due twice at {target}"));
            }
        }
    }
    Ok(pending)
}

fn is_same(due: &Due, sent: &Submission) -> bool {
    let (found, sent) = (&due.record, &sent.notification);
    found.id == sent.id
        && found.source == sent.source
        && found.secret == sent.secret
        && found.received_at == sent.received_at
        && found.generated_at == sent.generated_at
        && found.signature == sent.signature
        && found.content_type == sent.content_type
        && found.body == sent.body
}

/// All that was ever submitted: what was promised must be known, with its verdict. What was not may be.
async fn submit_again(
    spool: &Spool,
    sent: &[Submission],
    ledger: &Ledger,
) -> Result<BTreeSet<u32>, Violation> {
    let mut waiting = JoinSet::new();
    for number in ledger.tried.iter().copied() {
        let spool = spool.clone();
        let submission = again(&sent[number as usize]);
        waiting.spawn(async move {
            let verdict = submission.verdict;
            (number, verdict, spool.accept(submission).await)
        });
    }
    let mut present = BTreeSet::new();
    for (number, verdict, kept) in waiting.join_all().await {
        match kept {
            Ok(Kept::Before(before)) if before == verdict => drop(present.insert(number)),
            Ok(Kept::Now) if !ledger.kept.contains(&number) => {}
            Ok(Kept::Now) => return Err(format!("{number} was promised, and is lost")),
            other => return Err(format!("{number} again: {other:?}, not {verdict:?}")),
        }
    }
    Ok(present)
}

fn deliveries_are_whole(
    number: u32,
    sent: &[Submission],
    ledger: &Ledger,
    pending: &Pending,
) -> Result<(), Violation> {
    for target in TARGETS
        .into_iter()
        .filter(|target| is_for(&sent[number as usize], target))
    {
        let attempts = ledger.attempts(number, target);
        let right = match pending.get(&(number, target)) {
            Some(made) => {
                attempts.delivered.promised + attempts.dead.promised == 0
                    && attempts.retries.allows(*made)
            }
            None => attempts.delivered.tried + attempts.dead.tried > 0,
        };
        if !right {
            let found = pending.get(&(number, target));
            return Err(format!("{number} to {target}: due {found:?}, {attempts:?}"));
        }
    }
    Ok(())
}

/// Of all that is kept, what no target is owed included.
fn contents_are_exact(
    folder: &Path,
    sent: &[Submission],
    ledger: &Ledger,
) -> Result<(), Violation> {
    let read = || -> rusqlite::Result<Option<Violation>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(folder.join("spool.db"), flags)?;
        let mut find = database.prepare(
            "SELECT digest, quarantine, generated_at, signature, content_type, body
             FROM notification LEFT JOIN content USING (seq)",
        )?;
        let mut rows = find.query([])?;
        let mut found = 0;
        while let Some(row) = rows.next()? {
            let body: Vec<u8> = row.get(5)?;
            let Some(number) = Ledger::number_of(&body) else {
                return Ok(Some("a body that nobody submitted".into()));
            };
            let Some(sent) = sent.get(number as usize) else {
                return Ok(Some(format!("{number} was never submitted")));
            };
            let exact = ledger.tried.contains(&number)
                && body == sent.notification.body
                && row.get::<_, Vec<u8>>(0)? == sent.notification.digest()
                && row.get::<_, Option<String>>(1)?.as_deref()
                    == sent.quarantine.map(suki_relay::spool::Reason::as_str)
                && row.get::<_, String>(2)? == sent.notification.generated_at
                && row.get::<_, String>(3)? == sent.notification.signature
                && row.get::<_, Option<String>>(4)? == sent.notification.content_type;
            if !exact {
                return Ok(Some(format!("{number} is kept other than submitted")));
            }
            found += 1;
        }
        let all = found == ledger.tried.len();
        Ok((!all).then(|| format!("{found} kept of {}", ledger.tried.len())))
    };
    match read() {
        Ok(None) => Ok(()),
        Ok(Some(violation)) => Err(violation),
        Err(error) => Err(error.to_string()),
    }
}
