//! The tool bundle {{name}}: one tool, which counts the PostgreSQL instances of a host.
//!
//! It needs the grant `read`. `wit/plugin.wit` has all that a bundle may ask the host for.

use serde::Deserialize;
use serde_json::json;

use bindings::dev_postgres::plugin::types::{Failure, FailureCode, FieldError};
use bindings::dev_postgres::plugin::{instances, settings};
use bindings::exports::dev_postgres::plugin::tools::{Guest, Hints, Tool};

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "tool-bundle" });

    // Linkers of other targets, where only the tests run, don't take a component's export names.
    #[cfg(target_arch = "wasm32")]
    export!(Plugin with_types_in self);
    #[cfg(target_arch = "wasm32")]
    use super::Plugin;
}

/// `settings` of this bundle in the host's configuration.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// From how many instances on there are many.
    many: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { many: 5 }
    }
}

impl Settings {
    fn parse(json: &str) -> Result<Self, FieldError> {
        let refused = |field: &str, message: String| FieldError {
            field: field.into(),
            message,
        };
        let settings: Self = serde_json::from_str(json)
            .map_err(|error| refused("settings", format!("don't fit: {error}")))?;
        if settings.many == 0 {
            return Err(refused("many", "must be at least 1".into()));
        }
        Ok(settings)
    }
}

/// What the tool is called with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    version: Option<String>,
}

/// How many of these versions are the one that was asked for, or any.
fn count<'a>(versions: impl Iterator<Item = &'a str>, asked: Option<&str>) -> usize {
    versions
        .filter(|version| asked.is_none_or(|asked| asked == *version))
        .count()
}

fn call(arguments: &str) -> Result<String, Failure> {
    // The host has checked both before.
    let arguments: Arguments = serde_json::from_str(arguments).map_err(internal)?;
    let settings = Settings::parse(&settings::get()).map_err(|error| internal(error.message))?;
    let instances = instances::list()?;
    let versions = instances.iter().map(|instance| instance.version.as_str());
    let count = count(versions, arguments.version.as_deref());
    Ok(json!({ "count": count, "many": count >= settings.many }).to_string())
}

fn internal(error: impl ToString) -> Failure {
    Failure {
        code: FailureCode::Internal,
        message: error.to_string(),
        advice: String::new(),
        fields: Vec::new(),
    }
}

struct Plugin;

impl Guest for Plugin {
    fn check_settings(settings: String) -> Result<(), Vec<FieldError>> {
        Settings::parse(&settings)
            .map(drop)
            .map_err(|error| vec![error])
    }

    fn describe() -> Vec<Tool> {
        let input_schema = json!({
            "type": "object",
            "properties": {
                "version": { "type": "string", "description": "Count these alone: a PostgreSQL version, such as \"17\"." },
            },
            "additionalProperties": false,
        });
        let output_schema = json!({
            "type": "object",
            "properties": {
                "count": { "type": "integer", "description": "How many instances there are." },
                "many": { "type": "boolean", "description": "Whether these are many, as the settings have it." },
            },
            "required": ["count", "many"],
            "additionalProperties": false,
        });
        vec![Tool {
            name: "{{snake_name}}".into(),
            title: "Count PostgreSQL instances".into(),
            description: "Says how many throwaway PostgreSQL instances there are, and whether these are many.".into(),
            input_schema: input_schema.to_string(),
            output_schema: Some(output_schema.to_string()),
            hints: Hints {
                read_only: true,
                destructive: false,
                idempotent: true,
                open_world: false,
            },
        }]
    }

    fn call(_name: String, arguments: String) -> Result<String, Failure> {
        call(&arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_instances_are_counted_or_those_of_one_version() {
        let versions = ["17", "16", "17"];
        assert_eq!(count(versions.into_iter(), None), 3);
        assert_eq!(count(versions.into_iter(), Some("17")), 2);
        assert_eq!(count(versions.into_iter(), Some("15")), 0);
    }

    #[test]
    fn settings_have_defaults_and_wrong_ones_are_told_by_field() {
        assert_eq!(Settings::parse("{}").expect("they fit").many, 5);
        assert_eq!(
            Settings::parse(r#"{ "many": 2 }"#).expect("they fit").many,
            2
        );
        assert_eq!(
            Settings::parse(r#"{ "many": 0 }"#)
                .expect_err("none is never many")
                .field,
            "many"
        );
        assert!(Settings::parse(r#"{ "few": 1 }"#).is_err());
    }
}
