//! Values that stay outside the config: `{ file: … }`, `{ env: … }`, either one `optional: true`.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::block::Block;
use super::interpolate::is_variable;
use super::reader::{At, Read};
use crate::secret::Secret;

pub(super) const KEYS: &[&str] = &["file", "env", "optional"];

/// A secret by reference: `Ok(None)` if it is optional and not there.
pub(super) fn secret(at: &At<'_>) -> Read<Option<Secret>> {
    if !at.is_mapping() {
        return at
            .problem("a secret is never written here; refer to it: `{ file: … }` or `{ env: … }`");
    }
    secret_of(&at.block(KEYS)?)
}

/// The same for a block that has other keys beside.
pub(super) fn secret_of(block: &Block<'_>) -> Read<Option<Secret>> {
    let optional = block.or("optional", false, At::boolean)?;
    match (block.optional("file"), block.optional("env")) {
        (Some(file), None) => from_file(&file, optional),
        (None, Some(variable)) => from_variable(&variable, optional),
        (None, None) => block.problem("file", "missing; a secret has `file: …` or `env: …`"),
        (Some(_), Some(_)) => block.problem("env", "excludes `file`; keep one of the two"),
    }
}

/// A file that must be there and hold something.
pub(super) fn file(at: &At<'_>) -> Read<(PathBuf, Vec<u8>)> {
    let path = path(at)?;
    match at.around.files.read(&path) {
        Ok(bytes) if bytes.is_empty() => at.problem(format!("{} is empty", path.display())),
        Ok(bytes) => {
            at.around.report.bring_in(&at.path, &bytes);
            Ok((path, bytes))
        }
        Err(error) => at.problem(format!("cannot read {}: {error}", path.display())),
    }
}

/// A path; relative ones begin at the config file's folder.
fn path(at: &At<'_>) -> Read<PathBuf> {
    let path = at.around.files.resolve(&at.text()?.value);
    at.around.report.file(&path);
    Ok(path)
}

fn from_file(at: &At<'_>, optional: bool) -> Read<Option<Secret>> {
    let path = path(at)?;
    match at.around.files.read(&path) {
        // One that is there and empty is being written: what it held a moment ago must go on.
        Ok(text) => present(at, text, false),
        Err(error) if optional && error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => at.problem(format!("cannot read {}: {error}", path.display())),
    }
}

fn from_variable(at: &At<'_>, optional: bool) -> Read<Option<Secret>> {
    let name = at.text()?;
    if !is_variable(&name.value) {
        return at.problem(
            "no name of an environment variable: letters, digits and `_`, no digit first",
        );
    }
    match (at.around.env)(&name.value) {
        Some(text) => present(at, text.into_bytes(), optional),
        None if optional => Ok(None),
        None => at.problem(format!(
            "the environment variable `{}` is not set",
            name.written
        )),
    }
}

fn present(at: &At<'_>, text: Vec<u8>, optional: bool) -> Read<Option<Secret>> {
    at.around.report.bring_in(&at.path, &text);
    match Secret::from_text(text) {
        None if !optional => at.problem(
            "what it refers to is empty; put the secret there, or if it is `optional`, remove it",
        ),
        found => Ok(found),
    }
}
