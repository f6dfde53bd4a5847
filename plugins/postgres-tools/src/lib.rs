//! The six built-in MCP tools. One file per tool holds its texts, its schemas, its arguments and the shape of its
//! result; this file only tells the host which there are.

mod arguments;
mod create;
mod drop;
mod extend;
mod get;
mod health;
mod instance;
mod list;
mod result;
mod schema;
mod settings;

use bindings::dev_postgres::plugin::types::{Failure, FailureCode, FieldError};
use bindings::exports::dev_postgres::plugin::tools::{Guest, Tool};

#[allow(
    missing_debug_implementations,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    clippy::pedantic,
    reason = "generated from wit/0.2.0/plugin.wit"
)]
mod bindings {
    wit_bindgen::generate!({ path: "../../wit/0.2.0", world: "tool-bundle" });

    // Linkers of other targets, where only the tests run, don't take a component's export names.
    #[cfg(target_arch = "wasm32")]
    export!(PostgresTools with_types_in self);
    #[cfg(target_arch = "wasm32")]
    use super::PostgresTools;
}

/// The exported side.
#[derive(Debug)]
pub struct PostgresTools;

impl Guest for PostgresTools {
    fn check_settings(settings: String) -> Result<(), Vec<FieldError>> {
        settings::check(&settings)
    }

    fn describe() -> Vec<Tool> {
        vec![
            create::describe(),
            list::describe(),
            get::describe(),
            extend::describe(),
            drop::describe(),
            health::describe(),
        ]
    }

    fn call(name: String, arguments: String) -> Result<String, Failure> {
        match name.as_str() {
            create::NAME => create::call(&arguments),
            list::NAME => list::call(&arguments),
            get::NAME => get::call(&arguments),
            extend::NAME => extend::call(&arguments),
            drop::NAME => drop::call(&arguments),
            health::NAME => health::call(&arguments),
            _ => Err(Failure {
                code: FailureCode::Internal,
                message: format!("the bundle postgres-tools has no tool {name:?}"),
                advice: String::new(),
                fields: Vec::new(),
            }),
        }
    }
}
