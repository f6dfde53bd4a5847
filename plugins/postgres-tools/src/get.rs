//! `get_postgres_instance`: one instance, with everything it takes to connect to it.

use crate::arguments::{self, OneInstance};
use crate::bindings::dev_postgres::plugin::instances;
use crate::bindings::dev_postgres::plugin::types::Failure;
use crate::bindings::exports::dev_postgres::plugin::tools::{Hints, Tool};
use crate::instance::{ConnectionJson, connection_schema};
use crate::{result, schema};

pub(crate) const NAME: &str = "get_postgres_instance";

const DESCRIPTION: &str = "\
Returns one PostgreSQL instance exactly as create_postgres_instance returned it: `dsn`, a URI for psql and every driver, \
and host, port, database, username and password one by one, with its current status. Use it when the DSN or the \
password of an instance is needed again; list_postgres_instances has the ids. It changes nothing, and the instance \
stays until drop_postgres_instance is called. `password` and `dsn` are secrets: keep them out of files under version \
control, logs and summaries.";

pub(crate) fn describe() -> Tool {
    Tool {
        name: NAME.into(),
        title: "Get a PostgreSQL instance".into(),
        description: DESCRIPTION.into(),
        input_schema: schema::one_instance().to_string(),
        output_schema: Some(connection_schema().to_string()),
        hints: Hints {
            read_only: true,
            destructive: false,
            idempotent: true,
            open_world: false,
        },
    }
}

pub(crate) fn call(arguments: &str) -> Result<String, Failure> {
    let OneInstance { id } = arguments::parse(arguments)?;
    result::write(&ConnectionJson::from(instances::get(&id)?))
}
