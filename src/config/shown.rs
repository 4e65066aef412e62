//! The config as an operator may see it: as written, so that no variable and no file is in it, and without
//! what might be a credential all the same.

use serde_json::{Map, Value as Json};

use super::tree::{Node, Value};

/// What stands in the place of a value that is not shown.
const REDACTED: &str = "(redacted)";

/// The file's tree. Values of `headers` that are not references, and the queries of URLs, are left out.
pub(super) fn shown(node: &Node) -> Json {
    match &node.value {
        _ if node.is_null() => Json::Null,
        Value::Scalar(scalar) => Json::String(without_query(&scalar.text)),
        Value::Sequence(items) => items.iter().map(shown).collect(),
        Value::Mapping(entries) => {
            let entry = |(key, node): &(super::tree::Key, Node)| {
                let shown = match key.text.as_str() {
                    "headers" => headers(node),
                    _ => shown(node),
                };
                (key.text.clone(), shown)
            };
            Json::Object(entries.iter().map(entry).collect::<Map<_, _>>())
        }
    }
}

fn headers(node: &Node) -> Json {
    let Value::Mapping(entries) = &node.value else {
        return shown(node);
    };
    let entry = |(key, value): &(super::tree::Key, Node)| {
        let shown = match (key.text.as_str(), &value.value) {
            // Names of headers, in a source.
            ("signature" | "timestamp", _) | (_, Value::Mapping(_)) => shown(value),
            _ => Json::String(REDACTED.into()),
        };
        (key.text.clone(), shown)
    };
    Json::Object(entries.iter().map(entry).collect())
}

fn without_query(text: &str) -> String {
    match text.split_once("://").and_then(|_| text.split_once('?')) {
        Some((url, _)) => format!("{url}?{REDACTED}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn what_may_be_a_credential_is_not_shown() {
        let text = "
sources: [{ headers: { signature: x-api-key } }]
targets:
  - name: ehr
    http:
      url: https://ehr.internal/in?key=canary
      headers: { x-key: canary, x-team: { file: team } }
      bearer_token: { file: token }
";
        let tree = tree::parse(text).expect("YAML");
        let shown = shown(&tree).to_string();
        assert!(!shown.contains("canary"), "{shown}");
        for kept in [
            "x-api-key",
            "https://ehr.internal/in?",
            "\"team\"",
            "\"token\"",
        ] {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
    }
}
