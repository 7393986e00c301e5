//! The documents that netrec prints, against the schema that says what is in them.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

static DOCUMENTS: LazyLock<Validator> = LazyLock::new(|| {
    let mut schema = serde_json::from_str(include_str!("../../schema/output.schema.json")).expect("JSON");
    close(&mut schema);
    jsonschema::draft7::new(&schema).expect("a schema")
});

static FILE: LazyLock<Validator> =
    LazyLock::new(|| jsonschema::draft7::new(&netrec::config::schema()).expect("a schema"));

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

/// Asserts that a text is one of the documents; or the file with all filled in, where it is what is `shown`.
pub(crate) fn check(text: &str, shown: bool) {
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    let known = DOCUMENTS.is_valid(&document) || shown && FILE.is_valid(&document);
    assert!(known, "no schema has this:\n{text}");
}
