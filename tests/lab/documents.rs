//! The documents that netrec prints, against the schema that says what is in them.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

static DOCUMENTS: LazyLock<Validator> = LazyLock::new(|| {
    let mut schema = serde_json::from_str(include_str!("../../schema/output.schema.json")).expect("JSON");
    close(&mut schema);
    jsonschema::draft7::new(&schema).expect("a schema")
});

/// Readers are to pass over what they do not know; here nothing may be unknown.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(close);
            if map.get("properties").is_some_and(Value::is_object) {
                map.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}

/// Asserts that a text is one of the documents.
pub(super) fn check(text: &str) {
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    assert!(DOCUMENTS.is_valid(&document), "schema/output.schema.json does not have this:\n{text}");
}
