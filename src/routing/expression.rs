//! One CEL expression: compiled once a load, evaluated on each notification.
//!
//! A field that is not there (or is looked for in a null) makes an expression false; any other failure is
//! an error, and says nothing of the body. What would cost more than a request may does not compile
//! (`inspect.rs`).

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::{io, thread};

use cel::{Context, Env, ExecutionError, Program, Value};
use http::HeaderMap;

use super::inspect::inspect;
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

/// An expression has at most so many bytes …
const TEXT_BYTES_MAX: usize = 64 << 10;

/// … because what parses it, looks at it and drops it calls itself for each operator of a chain: `a.a.a`, `1+1+1`.
/// A quarter of this was enough for every chain of that many bytes, in an unoptimised build.
const STACK_BYTES: usize = 256 << 20;

/// What every expression may call; made with the first that is compiled, and not anew for each request.
static LIBRARY: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

impl Expression {
    /// # Errors
    /// [`ExpressionError`] with the place, if the text is not CEL or too long, or is what [`inspect`] refuses.
    pub fn compile(text: &str) -> Result<Self, ExpressionError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(ExpressionError::at_start(format!(
                "longer than {} KiB; write several routes instead",
                TEXT_BYTES_MAX >> 10
            )));
        }
        let compiled = thread::scope(|scope| {
            let thread = thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || Self::compile_here(text))?;
            Ok::<_, io::Error>(thread.join())
        });
        let problem = match compiled {
            Ok(Ok(compiled)) => return compiled,
            // Of a panic nothing is known but that it was this text.
            Ok(Err(_)) => "the compiler fails on it; please report it".into(),
            Err(error) => format!("no thread to compile it on: {error}"),
        };
        Err(ExpressionError::at_start(problem))
    }

    fn compile_here(text: &str) -> Result<Self, ExpressionError> {
        LazyLock::force(&LIBRARY);
        let program = Program::compile(text).map_err(|errors| {
            let Some(first) = errors.errors.into_iter().next() else {
                return ExpressionError::at_start("not a CEL expression".into());
            };
            if first.msg.contains("Recursion limit") {
                // Its place counts levels, not lines.
                let problem = "it is nested too deeply; write it shorter, or as several routes";
                return ExpressionError::at_start(problem.into());
            }
            let place = |position: isize| usize::try_from(position).unwrap_or(1).max(1);
            ExpressionError {
                line: place(first.pos.0),
                column: place(first.pos.1),
                problem: first.msg,
            }
        })?;
        inspect(program.expression()).map_err(ExpressionError::at_start)?;
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
        let mut context = Context::with_env(Arc::clone(&LIBRARY));
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
