//! The tools that bundles offer: what clients can use, and what arguments fit.

use std::str::FromStr;
use std::sync::Arc;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{PatternOptions, Validator};
use serde_json::{Map, Value};

use crate::digest::Digest;
use crate::failure::printable;
use crate::instance::InvalidValue;
use crate::policy::{FieldError, join};

/// The longest tool name: clients prefix the server's name and crop the whole at 60 or 64 characters.
const NAME_CHARS_MAX: usize = 40;
/// The longest prefix of a bundle's tool names.
const PREFIX_CHARS_MAX: usize = 20;
/// The longest description in bytes: Claude Code cuts at 2 KB.
const DESCRIPTION_BYTES_MAX: usize = 2048;
/// The longest schema in bytes.
const SCHEMA_BYTES_MAX: usize = 64 << 10;
/// The most memory that the compiled patterns of a schema may take together, in bytes.
const PATTERNS_BYTES_MAX: usize = 4 << 20;
/// Up to which product of a schema's bytes and a value's all problems are looked for: there may be one for each pair of
/// their parts, with ten times that in memory.
const EXPLAINED_MAX: usize = 16 << 20;
/// How much of an unknown argument's name is repeated.
const NAME_CHARS_SHOWN: usize = 64;
/// How much is told of where a result doesn't fit, in characters.
const PLACES_CHARS_MAX: usize = 1000;
/// How many problems of one call are told.
const PROBLEMS_MAX: usize = 20;

/// One tool.
#[derive(Debug)]
pub struct Tool {
    name: String,
    /// What its own bundle calls it.
    own_name: String,
    title: String,
    description: String,
    input_schema: Arc<Map<String, Value>>,
    output_schema: Option<Arc<Map<String, Value>>>,
    hints: Hints,
    arguments: Validator,
    result: Option<Validator>,
}

/// A tool as its bundle describes it, unchecked.
#[derive(Debug, Clone)]
pub(super) struct Described {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) description: String,
    pub(super) input_schema: String,
    pub(super) output_schema: Option<String>,
    pub(super) hints: Hints,
}

/// MCP's tool annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "MCP has these four")]
pub struct Hints {
    /// It changes nothing.
    pub read_only: bool,
    /// It may destroy something.
    pub destructive: bool,
    /// Calling it again with the same arguments changes nothing more.
    pub idempotent: bool,
    /// It reaches things outside this host.
    pub open_world: bool,
}

impl Tool {
    /// Its name: `snake_case`, at most 40 characters.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The digest of all that it tells clients: another digest is another tool, whatever its name.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let Hints {
            read_only,
            destructive,
            idempotent,
            open_world,
        } = self.hints;
        let told = serde_json::json!({
            "title": self.title,
            "description": self.description,
            "input": *self.input_schema,
            "output": self.output_schema.as_deref(),
            "hints": [read_only, destructive, idempotent, open_world],
        });
        Digest::of(told.to_string().as_bytes())
    }

    /// What its bundle calls it: the name without the prefix that the configuration gives.
    pub(super) fn own_name(&self) -> &str {
        &self.own_name
    }

    /// For people.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    /// For the model.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// JSON Schema with an object at the root.
    #[must_use]
    pub fn input_schema(&self) -> &Arc<Map<String, Value>> {
        &self.input_schema
    }

    /// JSON Schema with an object at the root.
    #[must_use]
    pub fn output_schema(&self) -> Option<&Arc<Map<String, Value>>> {
        self.output_schema.as_ref()
    }

    /// MCP's annotations.
    #[must_use]
    pub fn hints(&self) -> Hints {
        self.hints
    }

    /// Checks arguments against the input schema.
    ///
    /// # Errors
    /// Every problem, by field; that there are some, if they are too many to look for. No value is repeated: it may be a
    /// password.
    pub fn check_arguments(&self, arguments: &Value) -> Result<(), Vec<FieldError>> {
        if self.arguments.is_valid(arguments) {
            return Ok(());
        }
        Err(
            problems(&self.arguments, &self.input_schema, arguments).unwrap_or_else(|| {
                vec![FieldError {
                    field: "arguments".into(),
                    message: "do not fit the tool's input schema, and are too long to say where".into(),
                }]
            }),
        )
    }

    /// Checks a result, as the bundle returned it, against the output schema.
    ///
    /// # Errors
    /// Where it doesn't fit. No value is repeated.
    pub(super) fn check_result(&self, result: &Value) -> Result<(), String> {
        let (Some(validator), Some(schema)) = (&self.result, &self.output_schema) else {
            return Ok(());
        };
        if validator.is_valid(result) {
            return Ok(());
        }
        let places = problems(validator, schema, result)
            .map_or_else(|| "it is too long to say where".to_owned(), |problems| join(&problems));
        // The names in a schema are the bundle's own words.
        let places: String = printable(&places).chars().take(PLACES_CHARS_MAX).collect();
        Err(format!("the result does not fit the tool's output schema: {places}"))
    }
}

/// Every problem that a schema finds with a value, by field; `None` if they are too many to look for.
fn problems(validator: &Validator, schema: &Map<String, Value>, value: &Value) -> Option<Vec<FieldError>> {
    if !is_explained(schema, value) {
        return None;
    }
    let mut problems = Vec::new();
    for error in validator.iter_errors(value) {
        let path = error.instance_path().as_str();
        // The names of fields may be anybody's words.
        let at: Vec<String> = path.split('/').skip(1).map(shown).collect();
        explain(schema, &at, error.kind(), &mut problems);
        if problems.len() >= PROBLEMS_MAX {
            break;
        }
    }
    // One problem says enough about a field: `pattern` and `minLength` often fail together.
    problems.sort_by(|a, b| a.field.cmp(&b.field));
    problems.dedup_by(|a, b| a.field == b.field);
    problems.truncate(PROBLEMS_MAX);
    Some(problems)
}

fn explain(schema: &Map<String, Value>, at: &[String], kind: &ValidationErrorKind, problems: &mut Vec<FieldError>) {
    let field = at.join(".");
    let below = |name: &str| {
        if field.is_empty() {
            name.to_owned()
        } else {
            format!("{field}.{name}")
        }
    };
    let message = match kind {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            problems.extend(unexpected.iter().take(PROBLEMS_MAX).map(|name| FieldError {
                field: below(&shown(name)),
                message: unknown(schema, at),
            }));
            return;
        }
        ValidationErrorKind::Required { property } => {
            problems.push(FieldError {
                field: below(property.as_str().unwrap_or_default()),
                message: "is required".into(),
            });
            return;
        }
        ValidationErrorKind::Type {
            kind: TypeKind::Single(expected),
        } => format!("must be of type {expected}"),
        ValidationErrorKind::MinLength { limit: 1 } => "must not be empty".into(),
        ValidationErrorKind::MinLength { limit } => format!("must have at least {limit} characters"),
        ValidationErrorKind::MaxLength { limit } => format!("must have at most {limit} characters"),
        ValidationErrorKind::Minimum { limit } => format!("must be at least {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("must be at most {limit}"),
        _ => description_at(schema, at).map_or_else(
            || "does not fit its schema".into(),
            |rule| format!("does not fit: {rule}"),
        ),
    };
    let field = if field.is_empty() { "(root)".to_owned() } else { field };
    problems.push(FieldError { field, message });
}

fn unknown(schema: &Map<String, Value>, at: &[String]) -> String {
    let known: Vec<&str> = schema_at(schema, at)
        .and_then(|schema| schema.get("properties")?.as_object())
        .into_iter()
        .flat_map(|properties| properties.keys().map(String::as_str))
        .collect();
    if known.is_empty() {
        "is not known: there are none".into()
    } else {
        format!("is not known: there are {}", known.join(", "))
    }
}

fn schema_at<'a>(schema: &'a Map<String, Value>, at: &[String]) -> Option<&'a Map<String, Value>> {
    at.iter()
        .try_fold(schema, |schema, name| schema.get("properties")?.get(name)?.as_object())
}

fn description_at<'a>(schema: &'a Map<String, Value>, at: &[String]) -> Option<&'a str> {
    schema_at(schema, at)?.get("description")?.as_str()
}

/// A word in `snake_case` that stands before the names of a bundle's tools, with an underscore between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

impl FromStr for Prefix {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if is_snake_case(text) && text.len() <= PREFIX_CHARS_MAX && !text.ends_with('_') {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidValue(format!(
            "must be a word in snake_case with at most {PREFIX_CHARS_MAX} characters"
        )))
    }
}

fn is_snake_case(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

impl Tool {
    /// Lints what a bundle describes, by what the clients listed in the MCP notes refuse or crop.
    ///
    /// # Errors
    /// All that is wrong with it, each to be read after its name.
    pub(super) fn new(tool: Described, prefix: Option<&Prefix>) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let name = match prefix {
            Some(Prefix(prefix)) => format!("{prefix}_{}", tool.name),
            None => tool.name.clone(),
        };
        if !is_snake_case(&tool.name) || name.len() > NAME_CHARS_MAX {
            let with_prefix = prefix.map_or("", |_| ", prefix included");
            problems.push(format!(
                "must be named in snake_case with at most {NAME_CHARS_MAX} characters{with_prefix}"
            ));
        }
        if tool.title.trim().is_empty() || tool.description.trim().is_empty() {
            problems.push("must have a title and a description".into());
        }
        if tool.description.len() > DESCRIPTION_BYTES_MAX {
            problems.push(format!(
                "must have a description of at most {DESCRIPTION_BYTES_MAX} bytes"
            ));
        }
        let compiled = |text: &str| {
            let schema = parse_schema(text)?;
            let validator = compile(&schema)?;
            Ok((schema, validator))
        };
        let input = compiled(&tool.input_schema)
            .map_err(|problem: String| problems.push(format!("has an input schema that {problem}")));
        let output = tool
            .output_schema
            .as_deref()
            .map(compiled)
            .transpose()
            .map_err(|problem| problems.push(format!("has an output schema that {problem}")));
        let (Ok((input_schema, arguments)), Ok(output), []) = (input, output, &problems[..]) else {
            return Err(problems);
        };
        let (output_schema, result) = output.unzip();
        Ok(Self {
            name,
            own_name: tool.name,
            title: tool.title,
            description: tool.description,
            input_schema: Arc::new(input_schema),
            output_schema: output_schema.map(Arc::new),
            hints: tool.hints,
            arguments,
            result,
        })
    }
}

/// A name that a caller made up, fit for a message and for a log.
fn shown(name: &str) -> String {
    printable(&name.chars().take(NAME_CHARS_SHOWN).collect::<String>())
}

fn parse_schema(text: &str) -> Result<Map<String, Value>, String> {
    if text.len() > SCHEMA_BYTES_MAX {
        return Err(format!("has more than {SCHEMA_BYTES_MAX} bytes"));
    }
    let Value::Object(schema) = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))? else {
        return Err("is not an object".into());
    };
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        return Err("does not say \"type\": \"object\" at its root".into());
    }
    if let Some(keyword) = ["oneOf", "anyOf", "allOf"]
        .iter()
        .find(|&&word| schema.contains_key(word))
    {
        return Err(format!("has {keyword} at its root, which clients refuse"));
    }
    if schema.values().any(has_reference) {
        return Err("has a $ref, which clients don't follow".into());
    }
    Ok(schema)
}

/// Whether anything below refers elsewhere. As a key, not in the text: JSON has many ways to write one.
fn has_reference(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            ["$ref", "$dynamicRef", "$recursiveRef"].contains(&name.as_str()) || has_reference(value)
        }),
        Value::Array(items) => items.iter().any(has_reference),
        _ => false,
    }
}

/// Whether what is wrong with `value` can be looked for in little memory.
fn is_explained(schema: &Map<String, Value>, value: &Value) -> bool {
    let schema_bytes = serde_json::to_vec(schema).map_or(usize::MAX, |text| text.len());
    schema_bytes.saturating_mul(value.to_string().len()) <= EXPLAINED_MAX
}

/// How many patterns there are below; what only looks like one counts, too.
fn patterns(value: &Value) -> usize {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| {
                let here = match (name.as_str(), value) {
                    ("pattern", _) => 1,
                    ("patternProperties", Value::Object(patterns)) => patterns.len(),
                    _ => 0,
                };
                here + patterns(value)
            })
            .sum(),
        Value::Array(items) => items.iter().map(patterns).sum(),
        _ => 0,
    }
}

fn compile(schema: &Map<String, Value>) -> Result<Validator, String> {
    let schema = Value::Object(schema.clone());
    let pattern_bytes = PATTERNS_BYTES_MAX / patterns(&schema).max(1);
    jsonschema::draft202012::options()
        .offline()
        // Patterns are the bundle's and what they are held against is the caller's: an engine that backtracks would let
        // the two spend the host's time without end.
        .with_pattern_options(
            PatternOptions::regex()
                .size_limit(pattern_bytes)
                .dfa_size_limit(pattern_bytes),
        )
        .build(&schema)
        .map_err(|error| match error.instance_path().as_str() {
            "" => format!("is not a JSON Schema: {error}"),
            at => format!("is not a JSON Schema at {at}: {error}"),
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn described(name: &str, input_schema: &Value) -> Described {
        Described {
            name: name.into(),
            title: "A tool".into(),
            description: "Does something.".into(),
            input_schema: input_schema.to_string(),
            output_schema: None,
            hints: Hints {
                read_only: true,
                destructive: false,
                idempotent: true,
                open_world: false,
            },
        }
    }

    fn problem(tool: Described) -> String {
        Tool::new(tool, None).expect_err("clients can't use it").join(", and ")
    }

    #[test]
    fn names_that_clients_crop_or_refuse_are_refused() {
        let schema = json!({ "type": "object" });
        assert!(Tool::new(described("a_tool_2", &schema), None).is_ok());
        for name in [
            "",
            "Tool",
            "a.tool",
            "a-tool",
            "2_tools",
            "_tool",
            &"a".repeat(41),
            "tøøl",
        ] {
            assert_eq!(
                problem(described(name, &schema)),
                "must be named in snake_case with at most 40 characters"
            );
        }
    }

    #[test]
    fn a_prefix_stands_before_the_name_that_the_bundle_itself_goes_by() {
        let prefix: Prefix = "acme".parse().expect("a prefix");
        let described = |name: &str| described(name, &json!({ "type": "object" }));
        let tool = Tool::new(described("seed"), Some(&prefix)).expect("a tool");
        assert_eq!((tool.name(), tool.own_name()), ("acme_seed", "seed"));
        assert!(Tool::new(described(&"a".repeat(35)), Some(&prefix)).is_ok());
        assert_eq!(
            Tool::new(described(&"a".repeat(36)), Some(&prefix)).expect_err("too long"),
            ["must be named in snake_case with at most 40 characters, prefix included"]
        );
        for text in ["", "Acme", "acme_", "2nd", "a-b", &"a".repeat(21)] {
            assert!(text.parse::<Prefix>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn schemas_that_clients_refuse_are_refused() {
        for (schema, because) in [
            (json!({}), "does not say \"type\": \"object\" at its root"),
            (
                json!({ "type": "string" }),
                "does not say \"type\": \"object\" at its root",
            ),
            (json!([]), "is not an object"),
            (
                json!({ "type": "object", "anyOf": [] }),
                "has anyOf at its root, which clients refuse",
            ),
            (
                json!({ "type": "object", "properties": { "a": { "$ref": "https://example.com/" } } }),
                "has a $ref, which clients don't follow",
            ),
        ] {
            assert_eq!(
                problem(described("tool", &schema)),
                format!("has an input schema that {because}")
            );
        }
        let disguised = Described {
            input_schema: r#"{ "type": "object", "properties": { "a": { "\u0024ref": "\u0023" } } }"#.into(),
            ..described("tool", &json!({}))
        };
        assert_eq!(
            problem(disguised),
            "has an input schema that has a $ref, which clients don't follow"
        );
        let no_schema = problem(described("tool", &json!({ "type": "object", "properties": 7 })));
        assert!(
            no_schema.starts_with("has an input schema that is not a JSON Schema at /properties: "),
            "{no_schema}"
        );
        let too_long = problem(described(
            "tool",
            &json!({ "type": "object", "title": "x".repeat(70_000) }),
        ));
        assert_eq!(too_long, "has an input schema that has more than 65536 bytes");
    }

    #[test]
    fn patterns_cost_time_in_proportion_to_what_they_are_held_against_and_little_memory() {
        let with_pattern = |pattern: &str| {
            let schema = json!({ "type": "object", "properties": { "a": { "type": "string", "pattern": pattern } } });
            Tool::new(described("tool", &schema), None)
        };
        for refused in ["(?=a)a", r"(a)\1", r"(\w{1000}){1000}"] {
            let problem = with_pattern(refused)
                .expect_err("it takes a backtracking engine, or much memory")
                .join(", and ");
            assert!(problem.contains("is not a JSON Schema"), "{problem}");
        }
        // A backtracking engine would take longer than the universe has.
        let tool = with_pattern("^(a+)+$").expect("a tool");
        assert!(tool.check_arguments(&json!({ "a": "a".repeat(100) + "b" })).is_err());
    }

    #[test]
    fn all_that_is_wrong_with_a_tool_is_told_at_once() {
        let wrong = Described {
            title: String::new(),
            output_schema: Some("[]".into()),
            ..described("A Tool", &json!({ "type": "array" }))
        };
        assert_eq!(
            Tool::new(wrong, None).expect_err("four problems"),
            [
                "must be named in snake_case with at most 40 characters",
                "must have a title and a description",
                "has an input schema that does not say \"type\": \"object\" at its root",
                "has an output schema that is not an object",
            ]
        );
    }

    #[test]
    fn a_tool_without_words_for_people_and_models_is_refused() {
        let silent = Described {
            description: " ".into(),
            ..described("tool", &json!({ "type": "object" }))
        };
        assert_eq!(problem(silent), "must have a title and a description");
        let verbose = Described {
            description: "x".repeat(2049),
            ..described("tool", &json!({ "type": "object" }))
        };
        assert_eq!(problem(verbose), "must have a description of at most 2048 bytes");
    }

    #[test]
    fn every_problem_of_the_arguments_is_told_by_field_and_no_value_is_repeated() {
        let schema = json!({
            "type": "object",
            "properties": {
                "name": { "type": "string", "minLength": 1, "pattern": "^[a-z]+$", "description": "Lower-case letters." },
                "count": { "type": "integer", "minimum": 1, "maximum": 9 },
                "limits": {
                    "type": "object",
                    "properties": { "memory": { "type": "integer" } },
                    "additionalProperties": false,
                },
            },
            "required": ["name", "id"],
            "additionalProperties": false,
        });
        let tool = Tool::new(described("tool", &schema), None).expect("a tool");
        let told = |arguments: Value| -> Vec<String> {
            let problems = tool.check_arguments(&arguments).expect_err("they don't fit");
            problems.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            told(
                json!({ "name": "S3CRET", "count": 10, "limits": { "memory": "S3CRET", "cpu": 1 }, "colour": "S3CRET" })
            ),
            [
                "colour is not known: there are count, limits, name",
                "count must be at most 9",
                "id is required",
                "limits.cpu is not known: there are memory",
                "limits.memory must be of type integer",
                "name does not fit: Lower-case letters.",
            ]
        );
        assert_eq!(
            told(json!({ "name": "", "id": 1 })),
            [
                "id is not known: there are count, limits, name",
                "name must not be empty"
            ]
        );
    }

    #[test]
    fn problems_without_end_are_not_looked_for_one_by_one() {
        let branches: Vec<Value> = (0..1000).map(|n| json!({ "items": { "const": n } })).collect();
        let schema = json!({ "type": "object", "properties": { "a": { "anyOf": branches } } });
        let described = Described {
            output_schema: Some(schema.to_string()),
            ..described("tool", &schema)
        };
        let tool = Tool::new(described, None).expect("a tool");
        let (small, large) = (json!({ "a": ["S3CRET"] }), json!({ "a": vec!["S3CRET"; 50_000] }));
        let told = |arguments| tool.check_arguments(arguments).expect_err("they don't fit")[0].to_string();
        assert_eq!(told(&small), "a does not fit its schema");
        assert_eq!(
            told(&large),
            "arguments do not fit the tool's input schema, and are too long to say where"
        );
        assert_eq!(
            tool.check_result(&small).expect_err("it doesn't fit"),
            "the result does not fit the tool's output schema: a does not fit its schema"
        );
        assert_eq!(
            tool.check_result(&large).expect_err("it doesn't fit"),
            "the result does not fit the tool's output schema: it is too long to say where"
        );
        let fitting = json!({ "a": vec![7; 50_000] });
        assert!(tool.check_arguments(&fitting).is_ok() && tool.check_result(&fitting).is_ok());
    }

    #[test]
    fn many_patterns_have_no_more_memory_than_one() {
        let with = |name: &str, count: usize| {
            let patterns: Map<String, Value> = (0..count)
                .map(|n| format!(r"^\w{{400}}{n}"))
                .map(|pattern| (pattern.clone(), json!({ "pattern": pattern })))
                .collect();
            let schema = json!({ "type": "object", "properties": { "a": { name: patterns } } });
            Tool::new(described("tool", &schema), None).map(drop)
        };
        for name in ["properties", "patternProperties"] {
            with(name, 2).expect("it takes little memory");
            let problem = with(name, 500).expect_err("it takes much memory").join(", and ");
            assert!(problem.contains("is not a JSON Schema"), "{problem}");
        }
    }
}
