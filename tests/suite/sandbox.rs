//! Guests that misbehave: the call ends within its budget, the error names guest and budget, the host goes on.

use std::time::{Duration, Instant};

use dev_postgres_mcp::digest::Digest;
use dev_postgres_mcp::plugins::budget::Overrun;
use dev_postgres_mcp::plugins::bundle::{Bundle, Terms};
use dev_postgres_mcp::plugins::cache::Cache;
use dev_postgres_mcp::plugins::policy::ComponentPolicy;
use dev_postgres_mcp::plugins::{PluginError, Runtime, Source};
use dev_postgres_mcp_tests::guests::{Misdeed, hostile, hostile_module};

fn source(world: &str, misdeed: Misdeed) -> Source {
    Source {
        from: "a test".into(),
        name: "villain".into(),
        bytes: hostile(world, misdeed).into(),
        sha256: None,
        settings: serde_json::Map::new(),
    }
}

async fn load_policy(misdeed: Misdeed) -> PluginError {
    let runtime = Runtime::new(Cache::default()).expect("this machine runs WebAssembly");
    ComponentPolicy::load(&runtime, &source("policy", misdeed))
        .await
        .expect_err("it misbehaves when it is asked to check its settings")
}

async fn load_bundle(runtime: &Runtime, source: &Source) -> Result<Bundle, PluginError> {
    Bundle::load(runtime, source, &Terms::default()).await
}

#[tokio::test]
async fn a_policy_that_traps_is_named_with_the_reason() {
    let error = load_policy(Misdeed::Trap).await;
    assert_eq!(
        error.to_string(),
        "villain trapped: wasm trap: wasm `unreachable` instruction executed"
    );
}

#[tokio::test]
async fn a_policy_that_never_ends_is_stopped_when_its_cpu_time_is_spent() {
    let begun = Instant::now();
    let error = load_policy(Misdeed::Spin).await;
    assert_eq!(
        error.to_string(),
        "villain used more than its budget of 1 s of CPU time"
    );
    assert!(begun.elapsed() < Duration::from_secs(20), "took {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_policy_that_takes_memory_without_end_is_stopped_at_its_limit() {
    let error = load_policy(Misdeed::Hoard).await;
    assert_eq!(
        error.to_string(),
        "villain used more than its budget of 64 MiB of memory"
    );
}

#[tokio::test]
async fn a_policy_that_recurses_without_end_is_stopped() {
    let error = load_policy(Misdeed::Recurse).await;
    assert_eq!(
        error.to_string(),
        "villain used more than its budget of 512 KiB of stack"
    );
}

#[tokio::test]
async fn a_guest_that_spins_keeps_nobody_else_from_running() {
    let runtime = Runtime::new(Cache::default()).expect("this machine runs WebAssembly");
    let source = source("tool-bundle", Misdeed::Spin);
    // One thread for both: the timer below fires only if the guest lets go of it.
    let (loaded, waited) = tokio::join!(load_bundle(&runtime, &source), async {
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_millis(100)).await;
        begun.elapsed()
    });
    assert!(waited < Duration::from_secs(1), "the timer fired after {waited:?}");
    let error = loaded.expect_err("it never describes its tools");
    assert!(
        matches!(
            error,
            PluginError::OverBudget {
                budget: Overrun::Cpu(_),
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_any_more_ends_at_once() {
    let runtime = Runtime::new(Cache::default()).expect("this machine runs WebAssembly");
    let source = source("tool-bundle", Misdeed::Spin);
    let begun = Instant::now();
    let loading = tokio::time::timeout(Duration::from_millis(50), load_bundle(&runtime, &source));
    assert!(loading.await.is_err(), "a spinning guest can't have been loaded");
    assert!(begun.elapsed() < Duration::from_secs(1), "took {:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_not_what_the_configuration_pins_is_not_loaded_and_both_digests_are_told() {
    let runtime = Runtime::new(Cache::default()).expect("this machine runs WebAssembly");
    let source = source("tool-bundle", Misdeed::Trap);
    let (found, pinned) = (Digest::of(&source.bytes), Digest::of(b"another"));
    let pinned_to = |digest| Source {
        sha256: Some(digest),
        ..source.clone()
    };
    let refused = load_bundle(&runtime, &pinned_to(pinned)).await.expect_err("another");
    assert_eq!(
        refused.to_string(),
        format!("villain has the sha256 {found}, but the configuration pins {pinned}")
    );
    let run = load_bundle(&runtime, &pinned_to(found)).await.expect_err("it traps");
    assert!(matches!(run, PluginError::Trapped { .. }), "{run}");
}

#[tokio::test]
async fn a_core_module_with_its_world_embedded_is_as_good_as_a_component() {
    let runtime = Runtime::new(Cache::default()).expect("this machine runs WebAssembly");
    let module = Source {
        bytes: hostile_module("tool-bundle", Misdeed::Trap).into(),
        ..source("tool-bundle", Misdeed::Trap)
    };
    let run = load_bundle(&runtime, &module).await.expect_err("it traps");
    assert!(matches!(run, PluginError::Trapped { .. }), "{run}");
    let of_another_world = Source {
        bytes: hostile_module("policy", Misdeed::Trap).into(),
        ..module
    };
    let refused = load_bundle(&runtime, &of_another_world).await.expect_err("a policy");
    assert!(
        refused.to_string().contains("dev-postgres:plugin/tool-bundle"),
        "{refused}"
    );
}

#[tokio::test]
async fn what_is_no_component_is_refused_with_the_world_that_was_expected() {
    let runtime = Runtime::new(Cache::default()).expect("this machine runs WebAssembly");
    let of_another_world = source("policy", Misdeed::Trap);
    let error = load_bundle(&runtime, &of_another_world)
        .await
        .expect_err("it is a policy");
    assert_eq!(
        error.to_string(),
        "villain is no component of the world dev-postgres:plugin/tool-bundle: it is one of the world policy"
    );
    let garbage = Source {
        bytes: b"\0asm or not".as_slice().into(),
        ..of_another_world
    };
    let error = ComponentPolicy::load(&runtime, &garbage)
        .await
        .expect_err("it is garbage");
    assert!(error.to_string().contains("dev-postgres:plugin/policy"), "{error}");
}
