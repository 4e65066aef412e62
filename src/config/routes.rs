//! `routes`: which notifications go to which targets.

use std::collections::{BTreeMap, BTreeSet};

use super::reader::{At, Read, Text, suggest};
use super::tree::Place;
use crate::name::Name;
use crate::routing::{Expression, ExpressionError, Route};

const KEYS: &[&str] = &["name", "when", "to"];
const ROUTES_MAX: usize = 1024;
const TARGETS_MAX: usize = 256;

pub(super) fn read(at: &At<'_>, targets: &BTreeMap<Name, Place>) -> Read<Vec<Route>> {
    let items = at.list(1..=ROUTES_MAX)?;
    let mut names = BTreeMap::new();
    let routes: Vec<_> = items
        .iter()
        .map(|item| route(item, &mut names, targets))
        .collect();
    routes.into_iter().collect()
}

/// Warns of targets that no route names.
pub(super) fn all_reached(at: &At<'_>, routes: &[Route], targets: &BTreeMap<Name, Place>) {
    let reached: BTreeSet<_> = routes.iter().flat_map(|route| &route.to).collect();
    for target in targets.keys().filter(|target| !reached.contains(target)) {
        at.warning(format!(
            "no route leads to target `{target}`; nothing new will be sent there"
        ));
    }
}

fn route(
    at: &At<'_>,
    names: &mut BTreeMap<Name, Place>,
    targets: &BTreeMap<Name, Place>,
) -> Read<Route> {
    let block = at.block(KEYS)?;
    let name = block
        .required("name")
        .and_then(|at| at.once(names, at.name()?));
    let when = block.maybe("when", expression);
    let to = block.required("to").and_then(|at| to(&at, targets));
    Ok(Route {
        name: name?,
        when: when?,
        to: to?,
    })
}

fn to(at: &At<'_>, targets: &BTreeMap<Name, Place>) -> Read<Vec<Name>> {
    let items = at.list(1..=TARGETS_MAX)?;
    let mut seen = BTreeMap::new();
    let named: Vec<_> = items
        .iter()
        .map(|item| item.once(&mut seen, known(item, targets)?))
        .collect();
    named.into_iter().collect()
}

fn known(at: &At<'_>, targets: &BTreeMap<Name, Place>) -> Read<Name> {
    let name = at.name()?;
    if targets.contains_key(&name) {
        return Ok(name);
    }
    if targets.is_empty() {
        return at.problem(format!("no target `{name}`; add it to `targets`"));
    }
    let nearest = suggest(name.as_str(), targets.keys().map(Name::as_str));
    at.problem(format!("no target `{name}`; {nearest}"))
}

fn expression(at: &At<'_>) -> Read<Expression> {
    let text = at.text()?;
    let error = match Expression::compile(&text.value) {
        Ok(expression) => return Ok(expression),
        Err(error) => error,
    };
    let ExpressionError {
        line,
        column,
        problem,
    } = &error;
    if text.written != text.value {
        return at.problem(format!(
            "not a CEL expression once `${{…}}` is filled in, at its line {line}, column {column}"
        ));
    }
    let problem = in_short(problem);
    match place_in_file(&text, *line, *column) {
        Some(place) => at.problem_at(place, format!("not a CEL expression: {problem}")),
        None => at.problem(format!(
            "not a CEL expression, at its line {line}, column {column}: {problem}"
        )),
    }
}

/// Leaves out every token that the parser would have taken instead.
fn in_short(problem: &str) -> &str {
    let problem = problem.strip_prefix("Syntax error: ").unwrap_or(problem);
    problem.split(" expecting {").next().unwrap_or(problem)
}

/// Where a place of the expression is in the file, if the two correspond letter for letter.
fn place_in_file(text: &Text, line: usize, column: usize) -> Option<Place> {
    let start = text.verbatim.filter(|_| line == 1)?;
    Some(Place {
        column: start.column + column - 1,
        ..start
    })
}
