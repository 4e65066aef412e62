//! A body, judged by the built-in schema; or a schema and a body, with a zero between. What fits has no violation,
//! and what does not has one.

use std::sync::LazyLock;

use suki_relay::schema::{Schema, UnknownStatus};

use crate::halves;

static BUILT_IN: LazyLock<Schema> =
    LazyLock::new(|| Schema::built_in(UnknownStatus::Reject).expect("compiles"));

pub fn try_one(input: &[u8]) {
    if input.contains(&0) {
        let (schema, body) = halves(input);
        if let Ok(schema) = Schema::compile(schema, UnknownStatus::Accept) {
            agree(&schema, body);
        }
    } else {
        agree(&BUILT_IN, input);
    }
}

fn agree(schema: &Schema, body: &[u8]) {
    let violations = schema.violations(body);
    assert_eq!(
        schema.parse(body).is_ok(),
        violations.is_empty(),
        "{violations:?}"
    );
}
