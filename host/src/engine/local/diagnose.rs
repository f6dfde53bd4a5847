//! What `doctor` shows of the local engine.

use super::server_user::ServerUser;
use super::state_dir::StateDir;
use super::{LocalEngine, blocking};
use crate::engine::{Diagnosis, EngineError, Verdict};
use crate::instance::Image;

pub(super) async fn diagnose(engine: &LocalEngine, image: &Image) -> Vec<Diagnosis> {
    vec![programs(engine, image).await, state(engine).await, limits()]
}

fn line(subject: &'static str, verdict: Verdict, detail: impl Into<String>, advice: impl Into<String>) -> Diagnosis {
    Diagnosis {
        subject,
        verdict,
        detail: detail.into(),
        advice: advice.into(),
    }
}

fn bad(subject: &'static str, error: EngineError) -> Diagnosis {
    let detail = error.to_string();
    let advice = match error {
        EngineError::Unreachable { advice, .. } => advice,
        _ => String::new(),
    };
    line(subject, Verdict::Bad, detail, advice)
}

async fn programs(engine: &LocalEngine, image: &Image) -> Diagnosis {
    let subject = "PostgreSQL";
    match engine.0.programs.all().await {
        Ok(all) => {
            let detail = all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            if all.iter().any(|programs| programs.version.is(image.version())) {
                return line(subject, Verdict::Good, detail, "");
            }
            let advice = format!(
                "{}, the default version, is not among them: the newest is taken where no version is asked for.",
                image.version()
            );
            line(subject, Verdict::Warning, detail, advice)
        }
        Err(error) => bad(subject, error),
    }
}

async fn state(engine: &LocalEngine) -> Diagnosis {
    let subject = "state directory";
    let settings = engine.0.settings.clone();
    let looked = blocking(move || {
        let state = StateDir::open(&settings)?;
        let whose = match ServerUser::find(settings.user.as_deref())? {
            Some(user) => format!(", servers run as {}", user.name),
            None => String::new(),
        };
        let count = state.instances()?.len();
        Ok(format!("{}, instances: {count}{whose}", state.path().display()))
    });
    match looked.await {
        Ok(detail) => line(subject, Verdict::Good, detail, ""),
        Err(error) => bad(subject, error),
    }
}

fn limits() -> Diagnosis {
    line(
        "limits",
        Verdict::Warning,
        "the local engine sets no memory and CPU limits",
        "Use Docker where instances must not take more than their share.",
    )
}
