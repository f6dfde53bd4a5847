//! What `doctor` shows of the local engine.

use super::confine::{self, Confinement};
use super::programs::Programs;
use super::server_user::ServerUser;
use super::state_dir::StateDir;
use super::{LocalEngine, blocking, limits};
use crate::engine::{Diagnosis, EngineError, Verdict};
use crate::instance::{Image, Limits, MEMORY_MIB_MIN};

pub(super) async fn diagnose(engine: &LocalEngine, image: &Image) -> Vec<Diagnosis> {
    vec![
        programs(engine, image).await,
        state(engine).await,
        set_limits().await,
        isolation().await,
    ]
}

fn bad(subject: &'static str, error: EngineError) -> Diagnosis {
    let detail = error.to_string();
    let advice = match error {
        EngineError::Unreachable { advice, .. } => advice,
        _ => String::new(),
    };
    Diagnosis::new(subject, Verdict::Bad, detail, advice)
}

pub(super) async fn installed(engine: &LocalEngine) -> Option<Diagnosis> {
    let all = engine.0.programs.all().await.ok()?;
    Some(Diagnosis::new("PostgreSQL", Verdict::Good, listed(&all), ""))
}

fn listed(all: &[Programs]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

async fn programs(engine: &LocalEngine, image: &Image) -> Diagnosis {
    let subject = "PostgreSQL";
    match engine.0.programs.all().await {
        Ok(all) => {
            let detail = listed(&all);
            if all.iter().any(|programs| programs.version.is(image.version())) {
                return Diagnosis::new(subject, Verdict::Good, detail, "");
            }
            let advice = format!(
                "{}, the default version, is not among them: the newest is taken where no version is asked for.",
                image.version()
            );
            Diagnosis::new(subject, Verdict::Warning, detail, advice)
        }
        Err(error) => bad(subject, error),
    }
}

async fn state(engine: &LocalEngine) -> Diagnosis {
    let subject = "state directory";
    let settings = engine.0.settings.clone();
    let looked = blocking(move || {
        let whose = match ServerUser::find(settings.user.as_deref())? {
            Some(user) => format!(", servers run as {}", user.name),
            None => String::new(),
        };
        let Some(state) = StateDir::find(&settings)? else {
            let place = settings
                .state_dir
                .map_or_else(String::new, |place| place.display().to_string());
            return Ok(format!("{place}, not there yet{whose}"));
        };
        let count = state.instances()?.len();
        Ok(format!("{}, instances: {count}{whose}", state.path().display()))
    });
    match looked.await {
        Ok(detail) => Diagnosis::new(subject, Verdict::Good, detail, ""),
        Err(error) => bad(subject, error),
    }
}

async fn set_limits() -> Diagnosis {
    let subject = "limits";
    // Any will do: what counts is whether they can be set at all.
    let checked = blocking(|| Ok(Limits::new(MEMORY_MIB_MIN, 1000).map(limits::check)));
    match checked.await {
        Ok(Ok(Ok(()))) => Diagnosis::new(subject, Verdict::Good, "memory and CPU limits can be set", ""),
        Ok(Ok(Err(reason))) => Diagnosis::new(
            subject,
            Verdict::Warning,
            format!("no memory and CPU limits can be set without Docker: {reason}"),
            "Use Docker where instances must not take more than their share.",
        ),
        Ok(Err(error)) => Diagnosis::new(subject, Verdict::Bad, error.to_string(), ""),
        Err(error) => bad(subject, error),
    }
}

async fn isolation() -> Diagnosis {
    let subject = "isolation";
    let apart = "an instance reaches no other instance, nor files, sockets and processes of its user";
    let checked = blocking(|| {
        confine::check().map_err(|error| EngineError::Request {
            verb: "looking whether instances can be kept apart",
            reason: error.to_string(),
        })
    });
    let detail = match checked.await {
        Ok(Confinement::Full) => return Diagnosis::new(subject, Verdict::Good, apart, ""),
        Ok(Confinement::Partial(reached)) => format!("instances are kept apart but for this: {reached}"),
        Ok(Confinement::None(reason)) => format!("SQL without Docker can do what this user can: {reason}"),
        Err(error) => error.to_string(),
    };
    let advice = "Use Docker where you don't trust the SQL that instances run.";
    Diagnosis::new(subject, Verdict::Warning, detail, advice)
}
