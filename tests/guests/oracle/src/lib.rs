//! A policy that answers what its settings say: it stands for any policy, good or hostile.

use std::collections::BTreeMap;

use policy_base::{
    Action, Caller, CreateRequest, Defaults, Endpoint, FieldError, Guest, Holding, Instance, InstanceSpec, Rejection,
    clock, inventory, log, random, settings,
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
    /// The reason of a denial by what is denied: create, extend, get, list, drop, health.
    denies: BTreeMap<String, String>,
    /// Whether the reason of a denial goes on with who asks and what there is.
    names_caller: bool,
    /// What is wrong with every request, if something is.
    invalid: Option<Vec<(String, String)>>,
    /// What is wrong with these settings.
    refused: Vec<(String, String)>,
    extension: u64,
    dsn: String,
    log: Option<String>,
    /// How many random bytes it asks for before each decision.
    random: u32,
}

fn own() -> Settings {
    serde_json::from_str(&settings::get()).unwrap_or_default()
}

fn fields(problems: Vec<(String, String)>) -> Vec<FieldError> {
    let field = |(field, message)| FieldError { field, message };
    problems.into_iter().map(field).collect()
}

fn named(client: Option<&str>, team: Option<&str>) -> String {
    let (client, team) = (client.unwrap_or("none"), team.unwrap_or("none"));
    format!("client {client} of team {team}")
}

/// Who asks, and who has made what there is, in an order that can be expected.
fn who_asks(caller: &Caller) -> String {
    let owner = |holding: &Holding| match &holding.owner {
        Some(owner) => named(owner.client.as_deref(), owner.team.as_deref()),
        None => "nobody".to_owned(),
    };
    let there = match inventory::list() {
        Ok(holdings) => {
            let mut owners: Vec<String> = holdings.iter().map(owner).collect();
            owners.sort();
            format!("{} there: {}", owners.len(), owners.join(", "))
        }
        Err(failure) => failure.message,
    };
    let asks = named(caller.client.as_deref(), caller.team.as_deref());
    format!("{asks} asks; {there}")
}

/// Why an action is denied, if it is.
fn denial(settings: &mut Settings, action: &str, caller: &Caller) -> Option<String> {
    let reason = settings.denied.take().or_else(|| settings.denies.remove(action))?;
    if !settings.names_caller {
        return Some(reason);
    }
    Some(format!("{reason} ({})", who_asks(caller)))
}

fn verdict(settings: &mut Settings, action: &str, caller: &Caller) -> Result<(), Rejection> {
    if let Some(invalid) = settings.invalid.take() {
        return Err(Rejection::Invalid(fields(invalid)));
    }
    denial(settings, action, caller).map_or(Ok(()), |reason| Err(Rejection::Denied(reason)))
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

    fn plan_create(request: CreateRequest, defaults: Defaults, caller: Caller) -> Result<InstanceSpec, Rejection> {
        let mut settings = own();
        if let Some(text) = &settings.log {
            log::write(log::Level::Info, text);
        }
        drop((inventory::list(), clock::now(), random::bytes(settings.random)));
        verdict(&mut settings, "create", &caller)?;
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

    fn plan_extend(_target: Instance, _ttl_seconds: Option<u64>, caller: Caller) -> Result<u64, Rejection> {
        let mut settings = own();
        drop(random::bytes(settings.random));
        verdict(&mut settings, "extend", &caller).map(|()| settings.extension)
    }

    fn authorize(action: Action, _target: Instance, caller: Caller) -> Result<(), String> {
        let mut settings = own();
        drop(random::bytes(settings.random));
        let action = match action {
            Action::Get => "get",
            Action::List => "list",
            Action::Drop => "drop",
            Action::Health => "health",
        };
        denial(&mut settings, action, &caller).map_or(Ok(()), Err)
    }

    fn format_dsn(_endpoint: Endpoint) -> String {
        own().dsn
    }
}
