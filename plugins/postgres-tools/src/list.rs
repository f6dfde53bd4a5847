//! `list_postgres_instances`: every instance there is, without credentials.

use serde::Serialize;
use serde_json::{Value, json};

use crate::arguments::{self, Nothing};
use crate::bindings::dev_postgres::plugin::instances;
use crate::bindings::dev_postgres::plugin::types::{Failure, Instance};
use crate::bindings::exports::dev_postgres::plugin::tools::{Hints, Tool};
use crate::instance::{InstanceJson, instance_schema};
use crate::{result, schema};

pub(crate) const NAME: &str = "list_postgres_instances";

const DESCRIPTION: &str = "\
Lists every PostgreSQL instance of this machine's dev-postgres-mcp, oldest first, whether it was created in this \
conversation, in an earlier one or on the command line. Use it to find an instance again whose id is lost, and to see \
what is left to drop. Returns `count` and `instances` with id, host, port, database, username, version, status, time of \
creation, owner and lifetime, but no passwords and DSNs: call get_postgres_instance with an id for these. `status` says what the \
container does; call health_check_postgres to learn whether PostgreSQL answers.";

#[derive(Serialize)]
struct Listing {
    count: usize,
    instances: Vec<InstanceJson>,
}

impl From<Vec<Instance>> for Listing {
    fn from(instances: Vec<Instance>) -> Self {
        Self {
            count: instances.len(),
            instances: instances.into_iter().map(InstanceJson::from).collect(),
        }
    }
}

pub(crate) fn describe() -> Tool {
    let no_arguments = schema::object("No arguments.", schema::properties(json!({})), &[]);
    Tool {
        name: NAME.into(),
        title: "List PostgreSQL instances".into(),
        description: DESCRIPTION.into(),
        input_schema: no_arguments.to_string(),
        output_schema: Some(output_schema().to_string()),
        hints: Hints {
            read_only: true,
            destructive: false,
            idempotent: true,
            open_world: false,
        },
    }
}

fn output_schema() -> Value {
    let properties = schema::properties(json!({
        "count": { "type": "integer", "minimum": 0, "description": "How many instances there are." },
        "instances": {
            "type": "array",
            "items": instance_schema(),
            "description": "The instances, oldest first.",
        },
    }));
    schema::object("The instances there are.", properties, &[])
}

pub(crate) fn call(arguments: &str) -> Result<String, Failure> {
    let Nothing {} = arguments::parse(arguments)?;
    result::write(&Listing::from(instances::list()?))
}

#[cfg(test)]
mod tests {
    use crate::instance::tests::instance;
    use crate::schema::tests::{assert_fits, fits, input_of, output_of};

    use super::*;

    #[test]
    fn a_listing_counts_its_instances_and_shows_no_secret() {
        for count in [0, 1, 3] {
            let listing = Listing::from(vec![instance(); count]);
            let json = serde_json::to_value(listing).expect("JSON");
            assert_fits(&output_of(&describe()), &json);
            assert_eq!(json["count"], count);
            assert_eq!(json["instances"].as_array().map(Vec::len), Some(count));
            assert!(!json.to_string().contains("password"));
        }
    }

    #[test]
    fn there_are_no_arguments() {
        assert_fits(&input_of(&describe()), &json!({}));
        assert!(fits(&input_of(&describe()), &json!({ "all": true })).is_err());
    }
}
