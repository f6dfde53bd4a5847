//! `extend_postgres_instance`: more time for an instance, from now on.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::bindings::dev_postgres::plugin::instances;
use crate::bindings::dev_postgres::plugin::types::Failure;
use crate::bindings::exports::dev_postgres::plugin::tools::{Hints, Tool};
use crate::instance::{InstanceJson, instance_schema};
use crate::{arguments, result, schema};

pub(crate) const NAME: &str = "extend_postgres_instance";

const DESCRIPTION: &str = "\
Has a PostgreSQL instance live for some time from now on, whatever it would have lived for: use it when the work takes \
longer than the `ttl_seconds` of its creation, or is to go on after this MCP server has ended. Without `ttl_seconds` it is \
given what this server's policy has for that. Returns the instance with its new `expires_at`. It changes nothing else: \
connections and data stay.";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    id: String,
    ttl_seconds: Option<u64>,
}

pub(crate) fn describe() -> Tool {
    Tool {
        name: NAME.into(),
        title: "Extend a PostgreSQL instance's life".into(),
        description: DESCRIPTION.into(),
        input_schema: input_schema().to_string(),
        output_schema: Some(instance_schema().to_string()),
        hints: Hints {
            read_only: false,
            // It only ever loses an end, or gets another.
            destructive: false,
            idempotent: true,
            open_world: false,
        },
    }
}

fn input_schema() -> Value {
    let properties = schema::properties(json!({
        "id": schema::instance_id("The instance's id, a UUID as create_postgres_instance and list_postgres_instances return it."),
        "ttl_seconds": schema::ttl_seconds(
            "How long the instance is to live from now on, in seconds, 1 to what this server's policy allows (by default a \
             week).",
        ),
    }));
    schema::object("Which instance, and for how long.", properties, &["ttl_seconds"])
}

pub(crate) fn call(arguments: &str) -> Result<String, Failure> {
    let Arguments { id, ttl_seconds } = arguments::parse(arguments)?;
    let extended = instances::extend(&id, ttl_seconds)?;
    result::write(&InstanceJson::from(extended))
}

#[cfg(test)]
mod tests {
    use crate::schema::tests::{assert_fits, fits, input_of};

    use super::*;

    #[test]
    fn the_time_may_be_left_to_the_policy_and_the_id_may_not() {
        let id = "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21";
        let input = input_of(&describe());
        assert_fits(&input, &json!({ "id": id }));
        assert_fits(&input, &json!({ "id": id, "ttl_seconds": 3600 }));
        for wrong in [
            json!({}),
            json!({ "id": id, "ttl_seconds": 0 }),
            json!({ "id": id, "until": 7 }),
        ] {
            assert!(fits(&input, &wrong).is_err(), "{wrong} was taken");
        }
    }
}
