//! The policy {{name}}: a team's rules. Which versions of PostgreSQL there may be is a setting.
//!
//! `wit/plugin.wit` has what the host asks, and what a policy may ask the host for.

use serde::Deserialize;

use bindings::dev_postgres::plugin::types::{CreateRequest, FieldError, Instance, InstanceSpec};
use bindings::dev_postgres::plugin::{random, settings};
use bindings::exports::dev_postgres::plugin::rules::{
    Action, Caller, Defaults, Endpoint, Guest, Rejection,
};

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "policy" });

    // Linkers of other targets, where only the tests run, don't take a component's export names.
    #[cfg(target_arch = "wasm32")]
    export!(Rules with_types_in self);
    #[cfg(target_arch = "wasm32")]
    use super::Rules;
}

/// How much randomness makes a password, in bytes.
const PASSWORD_BYTES: u32 = 20;
/// How long an instance lives that is extended without a word on how long, in seconds: a day.
const EXTENSION_SECONDS: u64 = 86_400;

/// `settings` of this policy in the host's configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// The versions that may be asked for; empty for all.
    versions: Vec<String>,
}

fn parse(settings: &str) -> Result<Settings, FieldError> {
    serde_json::from_str(settings).map_err(|error| FieldError {
        field: "settings".into(),
        message: format!("don't fit: {error}"),
    })
}

/// What is built for a request, or why not.
fn plan(
    request: CreateRequest,
    defaults: Defaults,
    settings: &Settings,
    password: impl FnOnce() -> String,
) -> Result<InstanceSpec, Rejection> {
    let version = request.version.unwrap_or(defaults.version);
    if !settings.versions.is_empty() && !settings.versions.contains(&version) {
        let allowed = settings.versions.join(", ");
        return Err(Rejection::Denied(format!(
            "PostgreSQL {version} is not among the team's versions: {allowed}"
        )));
    }
    Ok(InstanceSpec {
        repository: defaults.repository,
        version,
        database: request.database.unwrap_or_else(|| "postgres".into()),
        username: request.username.unwrap_or_else(|| "postgres".into()),
        password: request.password.unwrap_or_else(password),
        memory_mib: defaults.memory_mib,
        cpu_millis: defaults.cpu_millis,
        durable: defaults.durable,
        ttl_seconds: request.ttl_seconds,
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `text` as a part of a URI: all but RFC 3986's unreserved characters are percent-encoded.
fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

fn dsn(endpoint: &Endpoint) -> String {
    let host = match endpoint.host.contains(':') {
        true => format!("[{}]", endpoint.host.replace('%', "%25")),
        false => endpoint.host.clone(),
    };
    format!(
        "postgresql://{}:{}@{host}:{}/{}",
        encoded(&endpoint.username),
        encoded(&endpoint.password),
        endpoint.port,
        encoded(&endpoint.database),
    )
}

struct Rules;

impl Guest for Rules {
    fn check_settings(settings: String) -> Result<(), Vec<FieldError>> {
        parse(&settings).map(drop).map_err(|error| vec![error])
    }

    fn plan_create(
        request: CreateRequest,
        defaults: Defaults,
        _caller: Caller,
    ) -> Result<InstanceSpec, Rejection> {
        let settings = parse(&settings::get()).map_err(|error| Rejection::Denied(error.message))?;
        plan(request, defaults, &settings, || {
            hexadecimal(&random::bytes(PASSWORD_BYTES))
        })
    }

    fn plan_extend(
        _target: Instance,
        ttl_seconds: Option<u64>,
        _caller: Caller,
    ) -> Result<u64, Rejection> {
        Ok(ttl_seconds.unwrap_or(EXTENSION_SECONDS))
    }

    fn authorize(_action: Action, _target: Instance, _caller: Caller) -> Result<(), String> {
        Ok(())
    }

    fn format_dsn(endpoint: Endpoint) -> String {
        dsn(&endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(version: Option<&str>, settings: &str) -> Result<InstanceSpec, Rejection> {
        let request = CreateRequest {
            version: version.map(Into::into),
            database: None,
            username: Some("me".into()),
            password: None,
            ttl_seconds: None,
        };
        let defaults = Defaults {
            repository: "postgres".into(),
            version: "17".into(),
            memory_mib: 512,
            cpu_millis: 1000,
            durable: false,
        };
        plan(
            request,
            defaults,
            &parse(settings).expect("settings"),
            || "generated".into(),
        )
    }

    #[test]
    fn what_is_left_open_is_chosen() {
        let spec = planned(None, "{}").expect("allowed");
        assert_eq!(
            (spec.version.as_str(), spec.username.as_str()),
            ("17", "me")
        );
        assert_eq!(spec.password, "generated");
    }

    #[test]
    fn a_version_that_the_team_has_not_chosen_is_denied_with_those_that_it_has() {
        let settings = r#"{ "versions": ["16", "17"] }"#;
        assert!(planned(Some("16"), settings).is_ok());
        let Err(Rejection::Denied(reason)) = planned(Some("15"), settings) else {
            panic!("15 is allowed");
        };
        assert!(
            reason.contains("15") && reason.contains("16, 17"),
            "{reason}"
        );
    }

    #[test]
    fn a_dsn_has_everything_encoded_that_a_uri_would_take_for_its_own() {
        let endpoint = Endpoint {
            host: "::1".into(),
            port: 5432,
            database: "my db".into(),
            username: "me".into(),
            password: "p@ss:/".into(),
        };
        assert_eq!(
            dsn(&endpoint),
            "postgresql://me:p%40ss%3A%2F@[::1]:5432/my%20db"
        );
    }
}
