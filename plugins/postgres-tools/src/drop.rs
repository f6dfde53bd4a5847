//! `drop_postgres_instance`: the end of an instance and its data.

use serde::Serialize;
use serde_json::{Value, json};

use crate::arguments::{self, OneInstance};
use crate::bindings::dev_postgres::plugin::instances;
use crate::bindings::dev_postgres::plugin::types::Failure;
use crate::bindings::exports::dev_postgres::plugin::tools::{Hints, Tool};
use crate::{result, schema};

pub(crate) const NAME: &str = "drop_postgres_instance";

const DESCRIPTION: &str = "\
Stops a PostgreSQL instance and removes it for good, with all its data; there is no way back. Open \
connections are cut. Use it as soon as the work with an instance that you created is done: until then it takes memory. \
Don't drop an instance that somebody else may be using: ask first. Returns the id and `dropped`: true. Dropping it \
once more fails with not_found and does no harm.";

#[derive(Serialize)]
struct Dropped {
    id: String,
    dropped: bool,
}

pub(crate) fn describe() -> Tool {
    Tool {
        name: NAME.into(),
        title: "Drop a PostgreSQL instance".into(),
        description: DESCRIPTION.into(),
        input_schema: schema::one_instance().to_string(),
        output_schema: Some(output_schema().to_string()),
        hints: Hints {
            read_only: false,
            destructive: true,
            // In MCP's sense: a second call has no further effect, though its answer is another.
            idempotent: true,
            open_world: false,
        },
    }
}

fn output_schema() -> Value {
    let properties = schema::properties(json!({
        "id": schema::instance_id("The id of the instance that was dropped."),
        "dropped": { "type": "boolean", "description": "true: the instance and its data are gone." },
    }));
    schema::object("The instance that is no more.", properties, &[])
}

pub(crate) fn call(arguments: &str) -> Result<String, Failure> {
    let OneInstance { id } = arguments::parse(arguments)?;
    instances::drop(&id)?;
    result::write(&Dropped { id, dropped: true })
}

#[cfg(test)]
mod tests {
    use crate::schema::tests::{assert_fits, output_of};

    use super::*;

    #[test]
    fn a_drop_names_what_is_gone() {
        let id = "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21".to_owned();
        let json = serde_json::to_value(Dropped {
            id: id.clone(),
            dropped: true,
        })
        .expect("JSON");
        assert_eq!(json, json!({ "id": id, "dropped": true }));
        assert_fits(&output_of(&describe()), &json);
    }
}
