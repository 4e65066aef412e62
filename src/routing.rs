//! Who may send, what goes where, and how to get there: one immutable value, swapped whole.
//!
//! A [`Routing`] is built once a load; requests and attempts take a snapshot of it and only look things
//! up. Expressions are CEL, compiled here. A field that is not there (or is looked for in a null) makes
//! an expression false; any other failure is an error of the route, and says nothing of the body.
//! Comprehensions inside comprehensions do not compile: their cost is quadratic in the body.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cel::common::ast::Expr;
use cel::{Context, ExecutionError, IdedExpr, Program, Value};
use http::{HeaderMap, HeaderName};

use crate::clock::Timestamp;
use crate::name::Name;
use crate::schema::Schema;
use crate::target::Target;
use crate::verify::Keyring;

/// One version of sources, routes and targets.
#[derive(Debug, Default)]
pub struct Routing {
    sources: Vec<Arc<Source>>,
    routes: Vec<Route>,
    targets: BTreeMap<Name, Arc<Target>>,
}

/// Where notifications come in.
#[derive(Debug)]
pub struct Source {
    pub name: Name,
    /// Exact path, without a trailing slash; matched with or without one.
    pub path: String,
    pub keyring: Keyring,
    pub signature_header: HeaderName,
    pub timestamp_header: HeaderName,
    pub schema: Schema,
    pub on_invalid: OnInvalid,
    /// Older notifications are stale; `None` turns that off.
    pub age_max: Option<Duration>,
    /// Notifications further ahead of our clock are of the future.
    pub ahead_max: Duration,
}

/// What the sender of an invalid notification is told. It is kept in quarantine either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInvalid {
    Reject,
    Accept,
}

/// A rule: notifications for which `when` holds go to these targets.
#[derive(Debug)]
pub struct Route {
    pub name: Name,
    /// `None` always holds.
    pub when: Option<Expression>,
    pub to: Vec<Name>,
}

/// A compiled CEL expression.
#[derive(Debug)]
pub struct Expression {
    program: Program,
    reads_headers: bool,
}

/// An expression that does not compile. `line` and `column` count from 1, in characters.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct ExpressionError {
    pub line: usize,
    pub column: usize,
    pub problem: String,
}

/// What an expression may look at.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub source: &'a Name,
    pub secret: &'a Name,
    pub headers: &'a HeaderMap,
    pub body: &'a serde_json::Value,
}

/// What one route says of one notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    Holds,
    Fails,
    /// The expression could not be evaluated.
    Error,
}

/// Where a notification goes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Union of the targets of the routes that hold, in order of mention.
    pub targets: Vec<Name>,
    /// Routes that could not be evaluated.
    pub errors: Vec<Name>,
}

/// How a signed timestamp stands to the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    Fresh,
    Stale,
    Future,
    /// No number, or none that fits.
    Unreadable,
}

impl Routing {
    pub fn new(sources: Vec<Source>, routes: Vec<Route>, targets: Vec<Arc<Target>>) -> Self {
        Self {
            sources: sources.into_iter().map(Arc::new).collect(),
            routes,
            targets: targets
                .into_iter()
                .map(|target| (target.name.clone(), target))
                .collect(),
        }
    }

    /// The source at a request's path. One trailing slash more or less makes no difference.
    pub fn source_at(&self, path: &str) -> Option<&Arc<Source>> {
        let path = path.strip_suffix('/').unwrap_or(path);
        self.sources.iter().find(|source| source.path == path)
    }

    pub fn sources(&self) -> &[Arc<Source>] {
        &self.sources
    }

    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    pub fn target(&self, name: &Name) -> Option<&Arc<Target>> {
        self.targets.get(name)
    }

    pub fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.targets.values()
    }

    /// Holds a notification against every route.
    pub fn plan(&self, facts: Facts<'_>) -> Plan {
        let mut plan = Plan::default();
        for (route, verdict) in self.verdicts(facts) {
            match verdict {
                Match::Holds => {
                    for target in &route.to {
                        if !plan.targets.contains(target) {
                            plan.targets.push(target.clone());
                        }
                    }
                }
                Match::Fails => {}
                Match::Error => plan.errors.push(route.name.clone()),
            }
        }
        plan
    }

    /// What each route says, in the order of the config.
    pub fn verdicts(&self, facts: Facts<'_>) -> Vec<(&Route, Match)> {
        let mut context = None; // made for the first route that asks; many ask nothing
        let reads_headers = self
            .routes
            .iter()
            .flat_map(|route| &route.when)
            .any(|e| e.reads_headers);
        self.routes
            .iter()
            .map(|route| match &route.when {
                None => (route, Match::Holds),
                Some(expression) => {
                    let context = context.get_or_insert_with(|| facts.context(reads_headers));
                    (
                        route,
                        context
                            .as_ref()
                            .map_or(Match::Error, |context| expression.evaluate(context)),
                    )
                }
            })
            .collect()
    }
}

impl Source {
    /// Reads the timestamp header's text: milliseconds since the epoch, in digits.
    pub fn freshness(&self, generated_at: &str, now: Timestamp) -> Freshness {
        let digits = generated_at.bytes().all(|c| c.is_ascii_digit());
        let Some(millis) = generated_at.parse().ok().filter(|_| digits) else {
            return Freshness::Unreadable;
        };
        let generated = Timestamp::from_millis(millis);
        if generated > now.plus(self.ahead_max) {
            Freshness::Future
        } else if self
            .age_max
            .is_some_and(|age_max| now.since(generated) > age_max)
        {
            Freshness::Stale
        } else {
            Freshness::Fresh
        }
    }
}

impl Expression {
    /// # Errors
    /// [`ExpressionError`] with the place, if the text is not CEL, names something that is not there, or
    /// nests comprehensions.
    pub fn compile(text: &str) -> Result<Self, ExpressionError> {
        let program = Program::compile(text).map_err(|errors| {
            let Some(first) = errors.errors.into_iter().next() else {
                return ExpressionError::at_start("not a CEL expression".into());
            };
            let place = |position: isize| usize::try_from(position).unwrap_or(1).max(1);
            ExpressionError {
                line: place(first.pos.0),
                column: place(first.pos.1),
                problem: first.msg,
            }
        })?;
        if nests_comprehensions(program.expression(), false) {
            return Err(ExpressionError::at_start(
                "a comprehension (`all`, `exists`, `map`, `filter`) inside another costs too much; \
                 write two routes, or compare one level only"
                    .into(),
            ));
        }
        let references = program.references();
        let unknown = references
            .variables()
            .into_iter()
            .find(|name| !VARIABLES.contains(name));
        if let Some(name) = unknown.filter(|name| !name.starts_with('@')) {
            let known = VARIABLES.join("`, `");
            return Err(ExpressionError::at_start(format!(
                "no variable `{name}`; there are `{known}`"
            )));
        }
        let reads_headers = references.has_variable("headers");
        Ok(Self {
            program,
            reads_headers,
        })
    }

    fn evaluate(&self, context: &Context<'_, '_>) -> Match {
        match self.program.execute(context) {
            Ok(Value::Bool(true)) => Match::Holds,
            Ok(Value::Bool(false)) => Match::Fails,
            Err(error) if is_absence(&error) => Match::Fails,
            Ok(_) | Err(_) => Match::Error,
        }
    }
}

const VARIABLES: [&str; 4] = ["body", "source", "secret", "headers"];

impl ExpressionError {
    fn at_start(problem: String) -> Self {
        Self {
            line: 1,
            column: 1,
            problem,
        }
    }
}

impl Facts<'_> {
    fn context(&self, reads_headers: bool) -> Option<Context<'static, 'static>> {
        let mut context = Context::default();
        context.add_variable("body", self.body).ok()?;
        context.add_variable("source", self.source.as_str()).ok()?;
        context.add_variable("secret", self.secret.as_str()).ok()?;
        if reads_headers {
            // A value that is not text is not there; of a repeated header the first counts.
            let headers: BTreeMap<&str, &str> = self
                .headers
                .keys()
                .filter_map(|name| Some((name.as_str(), self.headers.get(name)?.to_str().ok()?)))
                .collect();
            context.add_variable("headers", headers).ok()?;
        }
        Some(context)
    }
}

/// Whether an evaluation failed because a field is not there: no such key, or a field of null (Suki's
/// own handlers take null for absent).
fn is_absence(error: &ExecutionError) -> bool {
    match error {
        ExecutionError::NoSuchKey(_) => true,
        ExecutionError::NoSuchOverload(overload) => {
            overload.function() == "_._"
                && overload
                    .argument_types()
                    .first()
                    .is_some_and(|t| t.starts_with("null"))
        }
        _ => false,
    }
}

fn nests_comprehensions(expression: &IdedExpr, inside: bool) -> bool {
    let within = |inside: bool| move |child: &IdedExpr| nests_comprehensions(child, inside);
    match &expression.expr {
        Expr::Comprehension(comprehension) => {
            let c = comprehension;
            inside
                || [
                    &c.iter_range,
                    &c.accu_init,
                    &c.loop_cond,
                    &c.loop_step,
                    &c.result,
                ]
                .into_iter()
                .any(within(true))
        }
        Expr::Call(call) => {
            call.target.as_deref().is_some_and(within(inside))
                || call.args.iter().any(within(inside))
        }
        Expr::Select(select) => nests_comprehensions(&select.operand, inside),
        Expr::List(list) => list.elements.iter().any(within(inside)),
        Expr::Map(map) => map
            .entries
            .iter()
            .any(|entry| entry_nests(&entry.expr, inside)),
        Expr::Struct(made) => made
            .entries
            .iter()
            .any(|entry| entry_nests(&entry.expr, inside)),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => false,
    }
}

fn entry_nests(entry: &cel::common::ast::EntryExpr, inside: bool) -> bool {
    use cel::common::ast::EntryExpr;
    match entry {
        EntryExpr::MapEntry(entry) => {
            nests_comprehensions(&entry.key, inside) || nests_comprehensions(&entry.value, inside)
        }
        EntryExpr::StructField(field) => nests_comprehensions(&field.value, inside),
    }
}
