//! `${NAME}` in the texts of the config: replaced from the environment, after parsing, so that no value
//! of a variable can change the shape of the file. `$${` stands for `${`. Pure.

/// Looks up a variable of the environment.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Fills in the variables of a text.
///
/// # Errors
/// What is wrong, for people.
pub fn fill(text: &str, env: &Lookup<'_>) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            rest = after;
            continue;
        }
        filled.push_str(before);
        let name = after.split('}').next().unwrap_or_default();
        if !is_variable(name) || name.len() == after.len() {
            return Err("`${` begins a variable, as in `${NAME}`; write `$${` for the characters themselves".into());
        }
        let value = env(name).ok_or_else(|| {
            format!("the environment variable `{name}` is not set; set it, or write the value here")
        })?;
        filled.push_str(&value);
        rest = &after[name.len() + 1..];
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Whether this can be the name of a variable (POSIX, "Environment Variable Definition").
pub fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        (name == "HOST").then(|| "${HOST}: {a}".to_owned())
    }

    #[test]
    fn variables_are_filled_in_once() {
        let cases = [
            ("", ""),
            ("plain $ {x} $x", "plain $ {x} $x"),
            ("http://${HOST}/${HOST}", "http://${HOST}: {a}/${HOST}: {a}"),
            ("$${HOST}", "${HOST}"),
            ("$$${HOST}", "$${HOST}"),
        ];
        for (text, filled) in cases {
            assert_eq!(fill(text, &env).as_deref(), Ok(filled), "{text:?}");
        }
    }

    #[test]
    fn an_unset_or_unreadable_name_is_an_error() {
        for text in [
            "${",
            "${}",
            "${HOST",
            "${1A}",
            "${A B}",
            "a ${HOST:-x}",
            "${NONE}",
        ] {
            assert!(fill(text, &env).is_err(), "{text:?}");
        }
    }
}
