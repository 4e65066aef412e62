//! What an expression may be made of, looked at once when it is compiled. Pure.
//!
//! Refused: names that are not there; comprehensions inside comprehensions, whose cost is quadratic in the
//! body; nesting that would take more stack than a request has. Parentheses are the parser's own limit.

use cel::IdedExpr;
use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr};

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

/// Operators, calls and fields that stand in one another. To evaluate so many takes less than a quarter of
/// the 2 MiB that tokio gives a thread, in an unoptimised build; chains of `&&` and `||` are a tree, and
/// never as deep.
pub(super) const DEPTH_MAX: usize = 100;

/// # Errors
/// What it may not be made of, in words.
pub(super) fn inspect(expression: &IdedExpr) -> Result<(), String> {
    Inspection::default().look_at(expression)
}

#[derive(Default)]
struct Inspection<'e> {
    /// The variables of the comprehension that is looked at; there is none outside of one.
    bound: Vec<&'e str>,
    depth: usize,
}

impl<'e> Inspection<'e> {
    fn look_at(&mut self, expression: &'e IdedExpr) -> Result<(), String> {
        if self.depth == DEPTH_MAX {
            return Err(format!(
                "more than {DEPTH_MAX} operators, calls or fields stand in one another; write it shorter, or as \
                 several routes"
            ));
        }
        self.depth += 1;
        self.look_into(&expression.expr)?;
        self.depth -= 1;
        Ok(())
    }

    fn look_into(&mut self, expression: &'e Expr) -> Result<(), String> {
        match expression {
            Expr::Comprehension(comprehension) => self.look_into_comprehension(comprehension),
            Expr::Ident(name) => self.look_up(name),
            Expr::Call(call) => {
                let mut parts = call.target.as_deref().into_iter().chain(&call.args);
                parts.try_for_each(|part| self.look_at(part))
            }
            Expr::Select(select) => self.look_at(&select.operand),
            Expr::List(list) => list.elements.iter().try_for_each(|it| self.look_at(it)),
            Expr::Map(map) => {
                let mut entries = map.entries.iter();
                entries.try_for_each(|entry| self.look_into_entry(&entry.expr))
            }
            Expr::Struct(made) => {
                let mut entries = made.entries.iter();
                entries.try_for_each(|entry| self.look_into_entry(&entry.expr))
            }
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
        }
    }

    fn look_into_comprehension(
        &mut self,
        comprehension: &'e ComprehensionExpr,
    ) -> Result<(), String> {
        // What is iterated is computed once, so `a.map(…).filter(…)` stays linear.
        self.look_at(&comprehension.iter_range)?;
        if !self.bound.is_empty() {
            return Err(
                "a comprehension (`all`, `exists`, `map`, `filter`) inside another costs the \
                        square of the body; write two routes instead"
                    .into(),
            );
        }
        self.bound.extend([
            comprehension.iter_var.as_str(),
            comprehension.accu_var.as_str(),
        ]);
        self.bound.extend(comprehension.iter_var2.as_deref());
        let c = comprehension;
        [&c.accu_init, &c.loop_cond, &c.loop_step, &c.result]
            .into_iter()
            .try_for_each(|part| self.look_at(part))?;
        self.bound.clear();
        Ok(())
    }

    fn look_into_entry(&mut self, entry: &'e EntryExpr) -> Result<(), String> {
        match entry {
            EntryExpr::MapEntry(entry) => {
                self.look_at(&entry.key)?;
                self.look_at(&entry.value)
            }
            EntryExpr::StructField(field) => self.look_at(&field.value),
        }
    }

    fn look_up(&self, name: &str) -> Result<(), String> {
        if VARIABLES.contains(&name) || TYPES.contains(&name) || self.bound.contains(&name) {
            return Ok(());
        }
        Err(format!(
            "no variable `{name}`; there are `{}`",
            VARIABLES.join("`, `")
        ))
    }
}
