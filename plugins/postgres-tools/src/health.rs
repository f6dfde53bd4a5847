//! `health_check_postgres`: whether an instance answers a query.

use serde::Serialize;
use serde_json::{Value, json};

use crate::arguments::{self, OneInstance};
use crate::bindings::dev_postgres::plugin::instances;
use crate::bindings::dev_postgres::plugin::types::{Failure, Health, HealthReport};
use crate::bindings::exports::dev_postgres::plugin::tools::{Hints, Tool};
use crate::{result, schema};

pub(crate) const NAME: &str = "health_check_postgres";

const DESCRIPTION: &str = "\
Connects to a PostgreSQL instance with its own credentials, runs a query and says how that went. Use it when a connection \
fails or hangs, or before relying on an instance that was created a while ago; a fresh one needs no check, because \
create_postgres_instance returns only once it answers. Returns `status` (healthy, starting, unhealthy or stopped), a \
`message` that says what was seen, and `latency_ms`, which is left out when no query was answered. An instance that \
doesn't answer is a result, not an error. It changes nothing. An instance that is stopped or stays unhealthy is best \
dropped and created anew.";

#[derive(Serialize)]
struct Report {
    id: String,
    status: &'static str,
    message: String,
    // Left out rather than null: clients' schema checks take one type per property.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
    checked_at: String,
}

impl From<HealthReport> for Report {
    fn from(report: HealthReport) -> Self {
        Self {
            id: report.id,
            status: match report.health {
                Health::Healthy => "healthy",
                Health::Starting => "starting",
                Health::Unhealthy => "unhealthy",
                Health::Stopped => "stopped",
            },
            message: report.message,
            latency_ms: report.latency_micros.map(milliseconds),
            checked_at: report.checked_at,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact for the first 285 years")]
fn milliseconds(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

pub(crate) fn describe() -> Tool {
    Tool {
        name: NAME.into(),
        title: "Check a PostgreSQL instance's health".into(),
        description: DESCRIPTION.into(),
        input_schema: schema::one_instance().to_string(),
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
        "id": schema::instance_id("The id of the instance that was checked."),
        "status": {
            "type": "string",
            "enum": ["healthy", "starting", "unhealthy", "stopped"],
            "description": "healthy: it answered a query. starting: it runs and does not answer yet. unhealthy: it runs \
                            and should answer, but doesn't. stopped: it doesn't run.",
        },
        "message": { "type": "string", "description": "One sentence that says what was seen." },
        "latency_ms": {
            "type": "number",
            "minimum": 0,
            "description": "How long connecting and the query took, in milliseconds; left out if no query was answered.",
        },
        "checked_at": schema::time("When the check ended."),
    }));
    schema::object("How the instance is.", properties, &["latency_ms"])
}

pub(crate) fn call(arguments: &str) -> Result<String, Failure> {
    let OneInstance { id } = arguments::parse(arguments)?;
    result::write(&Report::from(instances::health(&id)?))
}

#[cfg(test)]
mod tests {
    use crate::schema::tests::{assert_fits, output_of};

    use super::*;

    fn report(health: Health, latency_micros: Option<u64>) -> Value {
        let report = HealthReport {
            id: "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21".into(),
            health,
            message: "it answered".into(),
            latency_micros,
            checked_at: "2026-11-22T17:40:32Z".into(),
        };
        let json = serde_json::to_value(Report::from(report)).expect("JSON");
        assert_fits(&output_of(&describe()), &json);
        json
    }

    #[test]
    fn latency_is_in_milliseconds_with_their_fraction() {
        assert_eq!(report(Health::Healthy, Some(1234))["latency_ms"], json!(1.234));
        assert_eq!(report(Health::Healthy, Some(0))["latency_ms"], json!(0.0));
    }

    #[test]
    fn a_check_without_an_answer_has_no_latency() {
        for (health, status) in [
            (Health::Starting, "starting"),
            (Health::Unhealthy, "unhealthy"),
            (Health::Stopped, "stopped"),
        ] {
            let json = report(health, None);
            assert_eq!(json["status"], status);
            assert!(json.get("latency_ms").is_none());
        }
    }
}
