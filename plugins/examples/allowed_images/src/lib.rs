//! An allow list: which image repositories and which versions may be built.
//!
//! Nothing is changed that was asked for: what isn't on the list is denied. `images` has the rule; all else is as in the
//! built-in policy.

use policy_base::lifetime::{self, Lifetimes};
use policy_base::settings::{self, Given};
use policy_base::{
    Action, Caller, CreateRequest, Defaults, Endpoint, FieldError, Guest, Instance, InstanceSpec, Rejection, dsn,
    password, plan,
};

use images::Images;

mod images;

/// What the configuration says.
#[derive(Debug)]
struct Settings {
    images: Images,
    lifetimes: Lifetimes,
}

impl Settings {
    fn parse(text: &str) -> Result<Self, Vec<FieldError>> {
        let mut given = Given::parse(text);
        let settings = Self {
            images: Images::take(&mut given),
            lifetimes: Lifetimes::take(&mut given),
        };
        given.finish(settings)
    }

    fn own() -> Result<Self, Rejection> {
        Self::parse(&settings::get()).map_err(Rejection::Invalid)
    }
}

/// The exported side: one function per question.
pub struct AllowedImages;

// Linkers of other targets, where only the tests run, don't take a component's export names.
#[cfg(target_arch = "wasm32")]
policy_base::bindings::export!(AllowedImages with_types_in policy_base::bindings);

impl Guest for AllowedImages {
    fn check_settings(settings: String) -> Result<(), Vec<FieldError>> {
        Settings::parse(&settings).map(drop)
    }

    fn plan_create(request: CreateRequest, defaults: Defaults, _caller: Caller) -> Result<InstanceSpec, Rejection> {
        let settings = Settings::own()?;
        let spec =
            plan::plan(request, defaults, &settings.lifetimes, password::generate).map_err(Rejection::Invalid)?;
        settings
            .images
            .check(&spec.repository, &spec.version)
            .map_err(Rejection::Denied)?;
        Ok(spec)
    }

    fn plan_extend(_target: Instance, ttl_seconds: Option<u64>, _caller: Caller) -> Result<u64, Rejection> {
        lifetime::extension(ttl_seconds, &Settings::own()?.lifetimes).map_err(Rejection::Invalid)
    }

    fn authorize(_action: Action, _target: Instance, _caller: Caller) -> Result<(), String> {
        Ok(())
    }

    fn format_dsn(endpoint: Endpoint) -> String {
        dsn::format(&endpoint)
    }
}
