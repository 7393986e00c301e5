//! The JSON Schema of the file, for editors, from the list of keys that the parser has. Draft 7, which is the one that Taplo
//! knows.

use serde_json::{Map, Value, json};

use super::driver::Named;
use super::keys::{FILE, Key, NETWORK, Need, Section, Shape};

/// The names of hosts, networks and containers.
const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$";

/// The schema of a file.
pub fn schema() -> Value {
    let mut definitions = Map::new();
    let file = table(&FILE, &mut definitions);
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "netrec",
    });
    if let (Some(schema), Value::Object(file)) = (schema.as_object_mut(), file) {
        schema.extend(file);
    }
    schema["definitions"] = Value::Object(definitions);
    schema
}

/// A table of the file.
fn table(section: &Section, definitions: &mut Map<String, Value>) -> Value {
    let properties: Map<String, Value> =
        section.keys.iter().map(|key| (key.name.to_owned(), property(key, definitions))).collect();
    let mut value = json!({
        "description": section.about,
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if section.name == NETWORK.name {
        value["allOf"] = Named::ALL.into_iter().map(of_driver).collect();
    } else {
        needs(section.keys.iter(), &mut value);
    }
    value
}

/// What holds for the networks of a driver.
fn of_driver(driver: Named) -> Value {
    let mut value = json!({ "if": { "properties": { "driver": { "const": driver.as_str() } } } });
    // Without the key it is the default.
    if driver != Named::Bridge {
        value["if"]["required"] = json!(["driver"]);
    }
    let (own, others): (Vec<&Key>, Vec<&Key>) = NETWORK.keys.iter().partition(|key| key.is_of(driver));
    let mut then = json!({});
    if !others.is_empty() {
        then["properties"] = others.into_iter().map(|key| (key.name.to_owned(), Value::Bool(false))).collect();
    }
    needs(own.into_iter(), &mut then);
    value["then"] = then;
    value
}

/// What a table cannot do without.
fn needs<'a>(keys: impl Iterator<Item = &'a Key>, value: &mut Value) {
    let mut required = Vec::new();
    for key in keys {
        match key.need {
            Need::Optional => {}
            Need::Required => required.push(key.name),
            Need::Unless(other, word) => {
                value["if"] = json!({ "properties": { other: { "const": word } }, "required": [other] });
                value["else"] = json!({ "required": [key.name] });
            }
        }
    }
    if !required.is_empty() {
        value["required"] = json!(required);
    }
}

/// The value of a key, with what it is for.
fn property(key: &Key, definitions: &mut Map<String, Value>) -> Value {
    let mut value = shape(&key.shape, definitions);
    // What stands beside a reference does not count in this draft.
    if value.get("$ref").is_some() {
        value = json!({ "allOf": [value] });
    }
    value["description"] = json!(key.about);
    if let Some(default) = key.default.and_then(|default| serde_json::from_str::<Value>(default).ok()) {
        value["default"] = default;
    }
    value
}

fn shape(what: &Shape, definitions: &mut Map<String, Value>) -> Value {
    match what {
        Shape::Text => json!({ "type": "string" }),
        Shape::Form(pattern) => json!({ "type": "string", "pattern": pattern }),
        Shape::Word(words) => json!({ "enum": words() }),
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::Off => json!({ "const": false }),
        Shape::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Shape::List(inner) => json!({ "type": "array", "items": shape(inner, definitions) }),
        Shape::OneOrMore(inner) => {
            let one = shape(inner, definitions);
            json!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
        }
        Shape::AnyNumber(inner) => {
            let one = shape(inner, definitions);
            json!({ "anyOf": [one, { "type": "array", "items": one }] })
        }
        Shape::Either(shapes) => {
            let shapes: Vec<Value> = shapes.iter().map(|inner| shape(inner, definitions)).collect();
            json!({ "anyOf": shapes })
        }
        Shape::Table(section) => defined(section.name, definitions, |definitions| table(section, definitions)),
        Shape::ByName(section) => {
            let one = defined(section.name, definitions, |definitions| table(section, definitions));
            json!({ "type": "object", "additionalProperties": one, "propertyNames": { "pattern": NAME } })
        }
        Shape::Texts => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Shape::Parameters => defined("parameters", definitions, |_| {
            let inner = json!({ "$ref": "#/definitions/parameters" });
            let values = json!([{ "type": ["string", "integer", "boolean"] }, inner]);
            json!({ "type": "object", "additionalProperties": { "anyOf": values } })
        }),
    }
}

/// A reference to a definition, which is made where it is not there yet.
fn defined(
    name: &str,
    definitions: &mut Map<String, Value>,
    section: impl FnOnce(&mut Map<String, Value>) -> Value,
) -> Value {
    if !definitions.contains_key(name) {
        // Its place, in the order of the file.
        definitions.insert(name.to_owned(), Value::Null);
        let section = section(definitions);
        definitions.insert(name.to_owned(), section);
    }
    json!({ "$ref": format!("#/definitions/{name}") })
}
