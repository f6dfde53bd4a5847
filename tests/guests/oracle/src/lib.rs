//! A policy that answers what its settings say: it stands for any policy, good or hostile.

use policy_base::{
    Action, Caller, CreateRequest, Defaults, Endpoint, FieldError, Guest, Instance, InstanceSpec, Rejection, clock,
    inventory, log, random, settings,
};
use serde::Deserialize;

/// What the configuration says.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Settings {
    /// Whether what is asked for is planned where it is there.
    echo: bool,
    repository: String,
    version: String,
    database: String,
    username: String,
    password: String,
    memory_mib: u32,
    cpu_millis: u32,
    durable: bool,
    ttl_seconds: Option<u64>,
    /// The reason of every denial, if all is denied.
    denied: Option<String>,
    /// What is wrong with every request, if something is.
    invalid: Option<Vec<(String, String)>>,
    /// What is wrong with these settings.
    refused: Vec<(String, String)>,
    extension: u64,
    dsn: String,
    log: Option<String>,
    /// How many random bytes it asks for.
    random: u32,
}

fn own() -> Settings {
    serde_json::from_str(&settings::get()).unwrap_or_default()
}

fn fields(problems: Vec<(String, String)>) -> Vec<FieldError> {
    let field = |(field, message)| FieldError { field, message };
    problems.into_iter().map(field).collect()
}

fn verdict(settings: &mut Settings) -> Result<(), Rejection> {
    if let Some(invalid) = settings.invalid.take() {
        return Err(Rejection::Invalid(fields(invalid)));
    }
    settings
        .denied
        .take()
        .map_or(Ok(()), |reason| Err(Rejection::Denied(reason)))
}

/// The exported side.
pub struct Oracle;

#[cfg(target_arch = "wasm32")]
policy_base::bindings::export!(Oracle with_types_in policy_base::bindings);

impl Guest for Oracle {
    fn check_settings(_settings: String) -> Result<(), Vec<FieldError>> {
        match own().refused {
            refused if refused.is_empty() => Ok(()),
            refused => Err(fields(refused)),
        }
    }

    fn plan_create(request: CreateRequest, defaults: Defaults, _caller: Caller) -> Result<InstanceSpec, Rejection> {
        let mut settings = own();
        if let Some(text) = &settings.log {
            log::write(log::Level::Info, text);
        }
        drop((inventory::list(), clock::now(), random::bytes(settings.random)));
        verdict(&mut settings)?;
        let echoed = |asked: Option<String>, own: String| match asked {
            Some(asked) if settings.echo => asked,
            _ => own,
        };
        Ok(InstanceSpec {
            repository: if settings.echo {
                defaults.repository
            } else {
                settings.repository
            },
            version: echoed(request.version, settings.version),
            database: echoed(request.database, settings.database),
            username: echoed(request.username, settings.username),
            password: echoed(request.password, settings.password),
            memory_mib: settings.memory_mib,
            cpu_millis: settings.cpu_millis,
            durable: settings.durable,
            ttl_seconds: request.ttl_seconds.filter(|_| settings.echo).or(settings.ttl_seconds),
        })
    }

    fn plan_extend(_target: Instance, _ttl_seconds: Option<u64>, _caller: Caller) -> Result<u64, Rejection> {
        let mut settings = own();
        verdict(&mut settings).map(|()| settings.extension)
    }

    fn authorize(_action: Action, _target: Instance, _caller: Caller) -> Result<(), String> {
        own().denied.map_or(Ok(()), Err)
    }

    fn format_dsn(_endpoint: Endpoint) -> String {
        own().dsn
    }
}
