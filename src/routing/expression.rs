//! One CEL expression: compiled once a load, evaluated on each notification.
//!
//! A field that is not there (or is looked for in a null) makes an expression false; any other failure is
//! an error, and says nothing of the body. Comprehensions inside comprehensions do not compile: their
//! cost is quadratic in the body.

use std::collections::BTreeMap;

use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr};
use cel::{Context, ExecutionError, IdedExpr, Program, Value};
use http::HeaderMap;

use crate::name::Name;

/// A compiled CEL expression.
#[derive(Debug)]
pub struct Expression {
    text: String,
    program: Program,
    pub(super) reads_headers: bool,
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

/// CEL's own names for types, as in `type(body.x) == string`.
const TYPES: [&str; 10] = [
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
];
const VARIABLES: [&str; 4] = ["body", "source", "secret", "headers"];

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
        inspect(program.expression(), &mut Vec::new()).map_err(ExpressionError::at_start)?;
        let reads_headers = program.references().has_variable("headers");
        Ok(Self {
            text: text.to_owned(),
            program,
            reads_headers,
        })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// What came of it, in words. May quote the body: for an operator's terminal, never for a log.
    pub fn reason(&self, facts: Facts<'_>) -> String {
        let Some(context) = facts.context(self.reads_headers) else {
            return "the body cannot be turned into CEL values".into();
        };
        match self.program.execute(&context) {
            Ok(Value::Bool(value)) => format!("evaluates to {value}"),
            Ok(other) => format!("evaluates to {:?}, which is no boolean", other.type_of()),
            Err(error) if is_absence(&error) => format!("false: a field is not there ({error})"),
            Err(error) => format!("cannot be evaluated: {error}"),
        }
    }

    pub(super) fn evaluate(&self, context: &Context<'_, '_>) -> Match {
        match self.program.execute(context) {
            Ok(Value::Bool(true)) => Match::Holds,
            Ok(Value::Bool(false)) => Match::Fails,
            Err(error) if is_absence(&error) => Match::Fails,
            Ok(_) | Err(_) => Match::Error,
        }
    }
}

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
    pub(super) fn context(&self, reads_headers: bool) -> Option<Context<'static, 'static>> {
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

/// Refuses names that are not there and comprehensions inside comprehensions. `bound` are the variables of
/// the comprehension that `expression` stands in; there is none outside of one.
fn inspect<'e>(expression: &'e IdedExpr, bound: &mut Vec<&'e str>) -> Result<(), String> {
    match &expression.expr {
        Expr::Comprehension(comprehension) => inspect_comprehension(comprehension, bound),
        Expr::Ident(name) => inspect_name(name, bound),
        Expr::Call(call) => {
            call.target
                .iter()
                .try_for_each(|target| inspect(target, bound))?;
            call.args
                .iter()
                .try_for_each(|argument| inspect(argument, bound))
        }
        Expr::Select(select) => inspect(&select.operand, bound),
        Expr::List(list) => list
            .elements
            .iter()
            .try_for_each(|element| inspect(element, bound)),
        Expr::Map(map) => map
            .entries
            .iter()
            .try_for_each(|entry| inspect_entry(&entry.expr, bound)),
        Expr::Struct(made) => made
            .entries
            .iter()
            .try_for_each(|entry| inspect_entry(&entry.expr, bound)),
        Expr::Unspecified | Expr::Literal(_) => Ok(()),
    }
}

fn inspect_comprehension<'e>(
    comprehension: &'e ComprehensionExpr,
    bound: &mut Vec<&'e str>,
) -> Result<(), String> {
    // What is iterated is computed once, so `a.map(…).filter(…)` stays linear.
    inspect(&comprehension.iter_range, bound)?;
    if !bound.is_empty() {
        return Err(
            "a comprehension (`all`, `exists`, `map`, `filter`) inside another costs the \
                    square of the body; write two routes instead"
                .into(),
        );
    }
    bound.extend([
        comprehension.iter_var.as_str(),
        comprehension.accu_var.as_str(),
    ]);
    bound.extend(comprehension.iter_var2.as_deref());
    let c = comprehension;
    [&c.accu_init, &c.loop_cond, &c.loop_step, &c.result]
        .into_iter()
        .try_for_each(|part| inspect(part, bound))?;
    bound.clear();
    Ok(())
}

fn inspect_entry<'e>(entry: &'e EntryExpr, bound: &mut Vec<&'e str>) -> Result<(), String> {
    match entry {
        EntryExpr::MapEntry(entry) => {
            inspect(&entry.key, bound)?;
            inspect(&entry.value, bound)
        }
        EntryExpr::StructField(field) => inspect(&field.value, bound),
    }
}

fn inspect_name(name: &str, bound: &[&str]) -> Result<(), String> {
    if VARIABLES.contains(&name) || TYPES.contains(&name) || bound.contains(&name) {
        return Ok(());
    }
    Err(format!(
        "no variable `{name}`; there are `{}`",
        VARIABLES.join("`, `")
    ))
}
