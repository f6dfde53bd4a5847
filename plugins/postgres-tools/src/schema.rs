//! JSON Schema as every MCP client takes it: closed objects, one scalar `type` each, everything described, no
//! references, no `oneOf`. Clients that meet more drop a tool, or the whole server.
//!
//! The host tells a model what a value should have been by the property's `description`, so each states its rule.

use serde_json::{Map, Value, json};

/// A closed object that has all of `properties`, those in `optional` aside.
pub(crate) fn object(description: &str, properties: Map<String, Value>, optional: &[&str]) -> Value {
    let required: Vec<Value> = properties
        .keys()
        .filter(|name| !optional.contains(&name.as_str()))
        .map(|name| json!(name))
        .collect();
    let mut schema = Map::new();
    schema.insert("type".into(), json!("object"));
    schema.insert("description".into(), json!(description));
    schema.insert("properties".into(), Value::Object(properties));
    // Older drafts, which some clients go by, don't allow an empty list.
    if !required.is_empty() {
        schema.insert("required".into(), Value::Array(required));
    }
    schema.insert("additionalProperties".into(), json!(false));
    Value::Object(schema)
}

/// The members of a JSON object literal; of anything else there are none.
pub(crate) fn properties(literal: Value) -> Map<String, Value> {
    match literal {
        Value::Object(properties) => properties,
        _ => Map::new(),
    }
}

/// An instance's id.
pub(crate) fn instance_id(description: &str) -> Value {
    json!({
        "type": "string",
        "format": "uuid",
        "pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
        "description": description,
    })
}

/// The arguments of a tool that is about one instance.
pub(crate) fn one_instance() -> Value {
    let id = instance_id(
        "The instance's id, a UUID as create_postgres_instance and list_postgres_instances return it, such as \
         2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21.",
    );
    object("Which instance.", properties(json!({ "id": id })), &[])
}

/// A time to live: ten years at most, as the host has it.
pub(crate) fn ttl_seconds(description: &str) -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": 315_360_000, "description": description })
}

/// A point in time.
pub(crate) fn time(description: &str) -> Value {
    json!({
        "type": "string",
        "format": "date-time",
        "description": format!("{description} RFC 3339, UTC."),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::PostgresTools;
    use crate::bindings::exports::dev_postgres::plugin::tools::{Guest, Tool};

    use super::*;

    /// Whether `value` fits, by the same library as the host's.
    pub(crate) fn fits(schema: &Value, value: &Value) -> Result<(), String> {
        jsonschema::draft202012::options()
            .should_validate_formats(true)
            .build(schema)
            .expect("a valid schema")
            .validate(value)
            .map_err(|error| error.to_string())
    }

    pub(crate) fn assert_fits(schema: &Value, value: &Value) {
        fits(schema, value).unwrap_or_else(|error| panic!("{value} does not fit: {error}"));
    }

    /// The input schema of a tool.
    pub(crate) fn input_of(tool: &Tool) -> Value {
        serde_json::from_str(&tool.input_schema).expect("JSON")
    }

    /// The output schema of a tool.
    pub(crate) fn output_of(tool: &Tool) -> Value {
        serde_json::from_str(tool.output_schema.as_deref().expect("every tool has one")).expect("JSON")
    }

    #[test]
    fn the_tools_are_the_six_of_the_documentation() {
        let names: Vec<String> = PostgresTools::describe().into_iter().map(|tool| tool.name).collect();
        assert_eq!(
            names,
            [
                "create_postgres_instance",
                "list_postgres_instances",
                "get_postgres_instance",
                "extend_postgres_instance",
                "drop_postgres_instance",
                "health_check_postgres",
            ]
        );
    }

    #[test]
    fn texts_are_there_and_within_what_clients_show() {
        for tool in PostgresTools::describe() {
            assert!(!tool.title.is_empty(), "{}", tool.name);
            assert!((100..1024).contains(&tool.description.len()), "{}", tool.name);
        }
    }

    #[test]
    fn every_schema_keeps_to_what_every_client_takes() {
        for tool in PostgresTools::describe() {
            for schema in [input_of(&tool), output_of(&tool)] {
                assert_eq!(schema["type"], "object", "{}", tool.name);
                assert_plain(&schema, &tool.name);
            }
        }
    }

    /// One level of a schema, and all below it.
    fn assert_plain(schema: &Value, at: &str) {
        let keywords = schema.as_object().unwrap_or_else(|| panic!("{at} is no object"));
        assert!(schema["type"].is_string(), "{at} has one type");
        assert!(schema["description"].is_string(), "{at} is described");
        for keyword in ["$ref", "oneOf", "anyOf", "allOf"] {
            assert!(!keywords.contains_key(keyword), "{at} has {keyword}");
        }
        if schema["type"] == "object" {
            assert_eq!(schema["additionalProperties"], false, "{at} is closed");
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            assert_plain(property, &format!("{at}.{name}"));
        }
        if let Some(items) = schema.get("items") {
            assert_plain(items, &format!("{at}[]"));
        }
    }

    #[test]
    fn an_id_is_a_uuid_with_hyphens() {
        let schema = one_instance();
        for id in [
            "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21",
            "2F1C6F0E-6F0A-4D0B-9A55-0D1C7A3B9E21",
        ] {
            assert_fits(&schema, &json!({ "id": id }));
        }
        for id in [
            "",
            "2f1c6f0e",
            "2f1c6f0e6f0a4d0b9a550d1c7a3b9e21",
            "{2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21}",
            "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21\n",
            "urn:uuid:2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21",
        ] {
            assert!(fits(&schema, &json!({ "id": id })).is_err(), "{id:?} was taken");
        }
        assert!(fits(&schema, &json!({})).is_err());
    }
}
