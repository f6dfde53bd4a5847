//! Teams: whose rules hold, what stops a start, and rules that only monitor; from the command line and over MCP.

use std::fs;
use std::process::Output;

use dev_postgres_mcp_tests::binary::{TestEngine, TestEnvironment};
use dev_postgres_mcp_tests::session::Session;
use serde_json::json;

/// An hour at most for one team, two for the other, a week for nobody's.
const CONFIGURATION: &str = "
[teams.payments]
settings.ttl_seconds_max = 3600

[teams.search]
settings.ttl_seconds_max = 7200
";

fn configured(engine: TestEngine, text: &str) -> TestEnvironment {
    let environment = TestEnvironment::on(engine);
    let path = environment.home().join("teams.toml");
    fs::write(&path, text).expect("a file");
    environment.with("DEV_POSTGRES_MCP_CONFIG", path)
}

fn of_team(environment: &TestEnvironment, team: &str) -> TestEnvironment {
    environment.clone().with("DEV_POSTGRES_MCP_TEAM", team)
}

/// What a command says that fails.
fn told(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_teams_rules_hold_for_its_people_and_its_agents_and_for_no_other_team() {
    let environment = configured(TestEngine::Docker, CONFIGURATION);
    let create = ["postgres", "create", "--ttl", "90m"];
    let refused = of_team(&environment, "payments").run(&create);
    assert!(told(&refused).contains("must be 1 to 3600"), "{refused:?}");
    // The option wins over the variable.
    let with_option = [&["--team", "payments"], &create[..]].concat();
    let refused = of_team(&environment, "search").run(&with_option);
    assert!(told(&refused).contains("must be 1 to 3600"), "{refused:?}");

    let payments = of_team(&environment, "payments");
    let mut session = Session::initialized(&payments, &[]).await;
    let refused = session
        .fail("create_postgres_instance", json!({ "ttl_seconds": 5400 }))
        .await;
    assert!(refused.to_string().contains("must be 1 to 3600"), "{refused}");
    assert!(session.end().await.status.success());

    let search = of_team(&environment, "search");
    let made = search.json(&create);
    let id = made["id"].as_str().expect("an id");
    let listed = environment.json(&["postgres", "list"]);
    let instances = listed["instances"].as_array().expect("instances");
    let mine = instances
        .iter()
        .find(|instance| instance["id"] == id)
        .expect("it is there");
    assert_eq!(mine["owner"]["team"], "search", "{mine}");
    environment.json(&["postgres", "drop", id]);
}

#[tokio::test]
async fn a_wrong_setting_of_the_team_stops_the_start_with_the_field_and_the_reason() {
    let text = "[teams.payments]\nsettings = { ttl_seconds_max = 0, ttl_secs = 1 }\n[teams.search]\n";
    let environment = configured(TestEngine::Docker, text);
    let session = Session::start(&of_team(&environment, "payments"), &[]);
    let remains = session.end().await;
    assert!(!remains.status.success(), "{remains:?}");
    assert!(remains.log.contains("ttl_seconds_max"), "{}", remains.log);
    assert!(remains.log.contains("ttl_secs"), "{}", remains.log);
    // The other team's start is not stopped.
    let session = Session::initialized(&of_team(&environment, "search"), &[]).await;
    assert!(session.end().await.status.success());

    let nobody = environment.run(&["--team", "nobody", "postgres", "list"]);
    let told = told(&nobody);
    assert!(
        told.contains("--team: team must be a team of the configuration: payments, search"),
        "{told}"
    );
}

#[tokio::test]
async fn rules_that_only_monitor_let_everything_through_and_the_log_says_what_they_would_have_denied() {
    let text = "[teams.payments]\nmode = 'monitor'\nsettings.ttl_seconds_max = 60\n";
    let environment = configured(TestEngine::Local, text);
    let team = of_team(&environment, "payments");
    let mut session = Session::initialized(&team, &["--pool-size", "0"]).await;
    let made = session
        .succeed(
            "create_postgres_instance",
            json!({ "ttl_seconds": 3600, "password": "planted secret" }),
        )
        .await;
    assert_eq!(made["lifetime"], "until", "{made}");
    let id = made["id"].as_str().expect("an id").to_owned();
    session.succeed("drop_postgres_instance", json!({ "id": id })).await;
    // What no server could take is refused all the same.
    let refused = session
        .fail("create_postgres_instance", json!({ "database": "" }))
        .await;
    assert!(refused.to_string().contains("database"), "{refused}");
    let remains = session.end().await;
    let denials: Vec<&str> = remains
        .log
        .lines()
        .filter(|line| line.contains("would have denied"))
        .collect();
    assert_eq!(denials.len(), 1, "{}", remains.log);
    assert!(denials[0].contains("must be 1 to 60"), "{}", denials[0]);
    assert!(!remains.log.contains("planted"), "{}", remains.log);

    let plugins = team.json(&["plugin", "list"]);
    assert_eq!(
        (&plugins["plugins"][0]["mode"], &plugins["plugins"][0]["may_change"]),
        (&json!("monitor"), &json!([]))
    );
    let doctor = String::from_utf8_lossy(&team.run(&["doctor"]).stdout).into_owned();
    assert!(doctor.contains("nothing is denied, it only monitors"), "{doctor}");
}
