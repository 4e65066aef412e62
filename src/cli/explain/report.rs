//! What `explain` says, as JSON and as lines for a terminal.

use std::fmt;

use serde::Serialize;

use crate::routing::{Match, Source};
use crate::schema;

/// The whole answer.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    pub source: String,
    /// What the sender is told, and what becomes of the notification.
    pub outcome: String,
    /// Absent if none was given.
    pub signature: Option<Signature>,
    pub freshness: Option<String>,
    /// Absent if the body was not read.
    pub schema_violations: Option<Vec<Violation>>,
    pub routes: Vec<RouteVerdict>,
    pub targets: Vec<String>,
    /// Targets whose method the body does not fit.
    pub misfits: Vec<TargetMisfit>,
}

#[derive(Debug, Serialize)]
pub(super) struct TargetMisfit {
    pub target: String,
    pub problem: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Signature {
    pub matches: bool,
    /// Name of the secret that made it.
    pub secret: Option<String>,
    pub likely_cause: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Violation {
    /// JSON pointer; empty for the whole document.
    pub pointer: String,
    pub problem: String,
}

#[derive(Debug, Serialize)]
pub(super) struct RouteVerdict {
    pub route: String,
    pub verdict: Verdict,
    pub when: Option<String>,
    pub why: String,
    pub targets: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Holds,
    Fails,
    Error,
}

impl Explanation {
    pub fn too_large(source: &Source, bytes_max: usize) -> Self {
        Self {
            source: source.name.to_string(),
            outcome: format!(
                "413 payload too large: above `listen.limits.body`, {bytes_max} bytes"
            ),
            signature: None,
            freshness: None,
            schema_violations: None,
            routes: Vec::new(),
            targets: Vec::new(),
            misfits: Vec::new(),
        }
    }
}

impl From<schema::Violation> for Violation {
    fn from(violation: schema::Violation) -> Self {
        let schema::Violation { pointer, problem } = violation;
        Self { pointer, problem }
    }
}

impl From<Match> for Verdict {
    fn from(verdict: Match) -> Self {
        match verdict {
            Match::Holds => Self::Holds,
            Match::Fails => Self::Fails,
            Match::Error => Self::Error,
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "source     {}", self.source)?;
        if let Some(violations) = &self.schema_violations {
            self.judgement(violations, f)?;
        }
        for RouteVerdict {
            route,
            verdict,
            why,
            ..
        } in &self.routes
        {
            writeln!(f, "route      {route} {verdict}: {why}")?;
        }
        for target in &self.targets {
            match self.misfits.iter().find(|misfit| misfit.target == *target) {
                None => writeln!(f, "target     {target}")?,
                Some(TargetMisfit { problem, .. }) => {
                    let becomes = "the body is no message of its method; a dead letter";
                    writeln!(f, "target     {target}: {becomes}: {problem}")?;
                }
            }
        }
        writeln!(f, "outcome    {}", self.outcome)
    }
}

impl Explanation {
    fn judgement(&self, violations: &[Violation], f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.signature {
            None => writeln!(
                f,
                "signature  not judged; give --generated-at and --signature"
            )?,
            Some(signature) => writeln!(f, "signature  {signature}")?,
        }
        if let Some(freshness) = &self.freshness {
            writeln!(f, "timestamp  {freshness}")?;
        }
        if violations.is_empty() {
            writeln!(f, "schema     fits")?;
        }
        for Violation { pointer, problem } in violations {
            let place = if pointer.is_empty() { "/" } else { pointer };
            writeln!(f, "schema     {place}: {problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.secret, &self.likely_cause) {
            (Some(secret), _) => write!(f, "matches secret `{secret}`"),
            (None, Some(cause)) => write!(f, "does not match: {cause}"),
            (None, None) => f.write_str("does not match"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::Fails => "fails",
            Self::Error => "cannot be evaluated",
        })
    }
}
