//! Guests that were compiled against released versions of the WIT package, kept as they were: they still load and run.

use std::fs;

use dev_postgres_mcp_tests::binary::TestEngine::Local;
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::guests;
use dev_postgres_mcp_tests::readme::repository;
use dev_postgres_mcp_tests::session::Session;
use serde_json::json;

/// An environment whose configuration file stands beside what its entries name.
fn configured(files: &[(&str, Vec<u8>)], configuration: &str) -> TestEnvironment {
    let environment = TestEnvironment::on(Local);
    for (name, bytes) in files {
        fs::write(environment.home().join(name), bytes).expect("written");
    }
    let file = environment.home().join("config.toml");
    fs::write(&file, configuration).expect("written");
    environment.with("DEV_POSTGRES_MCP_CONFIG", file)
}

fn released(version: &str, guest: &str) -> Vec<u8> {
    let path = repository("tests/guests/released").join(version).join(guest);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_version_but_the_current_one_has_its_guests_here_and_its_wit_beside_the_others() {
    let folders = |of: &str| -> Vec<String> {
        let entries = fs::read_dir(repository(of)).expect("a folder").flatten();
        let mut names: Vec<String> = entries
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let mut kept = folders("tests/guests/released");
    kept.push("0.2.0".into());
    assert_eq!(folders("wit"), kept);
}

#[tokio::test]
async fn a_bundle_and_a_policy_of_version_0_1_run_on_this_host() {
    let environment = configured(
        &[
            ("seeded.wasm", released("0.1.0", "seeded_instance.wasm")),
            ("policy.wasm", released("0.1.0", "policy_default.wasm")),
        ],
        "[policy]\ncomponent = 'policy.wasm'\n\n\
         [[bundle]]\nname = 'seeded'\ncomponent = 'seeded.wasm'\ngrants = ['create', 'sql']\n",
    );
    let mut session = Session::initialized(&environment, &[]).await;
    let seeded = session.succeed("create_seeded_instance", json!({})).await;
    assert_eq!((&seeded["table"], &seeded["rows"]), (&json!("customer"), &json!(3)));
    let dsn = seeded["dsn"].as_str().expect("a DSN");
    assert!(
        dsn.contains(seeded["password"].as_str().expect("a password")),
        "the host fills both in"
    );
    session
        .succeed("drop_postgres_instance", json!({ "id": seeded["id"] }))
        .await;

    // It was written before there were lifetimes: asked for one, it is taken to deny.
    let error = session
        .fail("create_postgres_instance", json!({ "ttl_seconds": 60 }))
        .await;
    assert_eq!(error["code"], "denied");
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| text.contains("knows no lifetimes")),
        "{error}"
    );
    assert!(session.end().await.status.success());
}

#[test]
fn a_guest_for_a_version_that_this_host_does_not_speak_is_refused_with_those_that_it_does() {
    let future = guests::hostile_of("tool-bundle", guests::Misdeed::Trap, |wit| {
        wit.replace("dev-postgres:plugin@0.2.0", "dev-postgres:plugin@0.9.0")
    });
    let environment = configured(
        &[("future.wasm", future)],
        "[[bundle]]\nname = 'future'\ncomponent = 'future.wasm'\n",
    );
    let doctor = environment.command(["doctor"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&doctor.stdout).replace(char::is_whitespace, " ");
    assert!(
        said.contains("it is made for version 0.9.0, this host speaks 0.1.0 and 0.2.0"),
        "{said}"
    );
}
