//! What a config amounts to, and what is different between two of them. Pure once it is read.

use std::collections::BTreeMap;
use std::fmt;

use super::block::Block;
use super::fingerprint::Fingerprint;
use super::reader::{At, Read};
use super::restart::Fixed;
use crate::name::Name;

/// Everything that a config says, by fingerprint: two of them tell what a reload would change.
#[derive(Clone, Debug)]
pub struct Outline {
    pub(super) fixed: Fixed,
    pub(super) parts: Parts,
}

/// What a reload can change.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// What we show to senders, and whom we let in.
    tls: Option<Fingerprint>,
    operator_token: Option<Fingerprint>,
    sources: Items,
    targets: Items,
    routes: Items,
}

type Items = BTreeMap<Name, Fingerprint>;

/// What is different between two versions of a config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that only a restart can change.
    pub restart: Vec<&'static str>,
    /// Certificate, key or authorities of the listener.
    pub tls: bool,
    /// What an operator's request must bear.
    pub operator_token: bool,
    pub sources: ItemChanges,
    pub targets: ItemChanges,
    pub routes: ItemChanges,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemChanges {
    pub added: Vec<Name>,
    pub removed: Vec<Name>,
    pub changed: Vec<Name>,
}

impl Outline {
    pub fn changes_to(&self, new: &Self) -> Changes {
        let (old_parts, new_parts) = (&self.parts, &new.parts);
        Changes {
            restart: self.fixed.differing(&new.fixed),
            tls: old_parts.tls != new_parts.tls,
            operator_token: old_parts.operator_token != new_parts.operator_token,
            sources: ItemChanges::between(&old_parts.sources, &new_parts.sources),
            targets: ItemChanges::between(&old_parts.targets, &new_parts.targets),
            routes: ItemChanges::between(&old_parts.routes, &new_parts.routes),
        }
    }

    /// Whether both have this target, with the same settings and credentials.
    pub fn shares_target(&self, other: &Self, name: &Name) -> bool {
        let (mine, others) = (&self.parts.targets, &other.parts.targets);
        mine.get(name)
            .is_some_and(|it| others.get(name) == Some(it))
    }
}

impl Changes {
    /// Whether both amount to the same.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Parts {
    /// Of a config in which no problem was found.
    pub fn read(root: &Block<'_>) -> Read<Self> {
        let tls = within(root.optional("listen"), "tls")?;
        let operator = within(root.optional("admin"), "operator")?;
        let operator_token = within(operator, "token")?;
        Ok(Self {
            tls: tls.as_ref().map(Fingerprint::of_value),
            operator_token: operator_token.as_ref().map(Fingerprint::of_value),
            sources: items(root, "sources")?,
            targets: items(root, "targets")?,
            routes: items(root, "routes")?,
        })
    }
}

/// What a block, if it is there, has at this key.
fn within<'a>(block: Option<At<'a>>, key: &str) -> Read<Option<At<'a>>> {
    let Some(block) = block.filter(At::is_mapping) else {
        return Ok(None);
    };
    let mut entries = block.map()?.into_iter();
    Ok(entries.find(|(it, _)| it.text == key).map(|(_, at)| at))
}

fn items(root: &Block<'_>, key: &'static str) -> Read<Items> {
    let mut items = Items::new();
    for item in root.required(key)?.list(0..=usize::MAX)? {
        let entries = item.map()?;
        if let Some((_, name)) = entries.iter().find(|(key, _)| key.text == "name") {
            items.insert(name.name()?, Fingerprint::of_value(&item));
        }
    }
    Ok(items)
}

impl ItemChanges {
    fn between(old: &Items, new: &Items) -> Self {
        let missing_in = |items: &Items, others: &Items| -> Vec<Name> {
            let missing = items.keys().filter(|name| !others.contains_key(*name));
            missing.cloned().collect()
        };
        let changed = |(name, old): (&Name, &Fingerprint)| {
            let differs = new.get(name).is_some_and(|new| new != old);
            differs.then(|| name.clone())
        };
        Self {
            added: missing_in(new, old),
            removed: missing_in(old, new),
            changed: old.iter().filter_map(changed).collect(),
        }
    }

    fn lines<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = String> + 'a {
        let of = move |verb: &'static str, names: &'a [Name]| {
            names
                .iter()
                .map(move |name| format!("{verb} {kind} {name}"))
        };
        of("adds", &self.added)
            .chain(of("removes", &self.removed))
            .chain(of("changes", &self.changed))
    }
}

/// A line for each change; nothing if there is none.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for key in &self.restart {
            writeln!(f, "needs a restart: {key}")?;
        }
        if self.tls {
            writeln!(f, "changes what the listener's TLS files hold")?;
        }
        if self.operator_token {
            writeln!(f, "changes the operator's token")?;
        }
        let items = self
            .sources
            .lines("source")
            .chain(self.targets.lines("target"))
            .chain(self.routes.lines("route"));
        for line in items {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}
