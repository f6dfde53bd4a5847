//! Points at which a test has this process killed, as a power cut would; in debug builds alone.
//!
//! They stand around every step that leaves something outside of this process. `KILL_AT_FAILPOINT` names the one to die
//! at: "after creating the container", or "after creating the container#1" for the second time that it is passed.
//! `TRACE_FAILPOINTS` names a file to which each is appended that is passed.

/// Does a step that leaves something outside; a test may have this process killed before it, in the middle of it, or after
/// it.
#[cfg(not(debug_assertions))]
pub(crate) async fn around<T>(_step: &str, work: impl Future<Output = T>) -> T {
    work.await
}

/// A point between two such steps, where no other names it.
#[cfg(not(debug_assertions))]
pub(crate) fn pass(_point: &str) {}

#[cfg(debug_assertions)]
pub(crate) use self::points::{around, pass};

#[cfg(debug_assertions)]
mod points {
    use std::collections::HashMap;
    use std::fs::OpenOptions;
    use std::io::Write as _;
    use std::sync::{LazyLock, Mutex, PoisonError};
    use std::time::Duration;

    /// How long a step has been under way in the middle of it: less than any takes, and enough for Docker to be asked.
    const AMID: Duration = Duration::from_millis(2);

    struct Plan {
        kill_at: Option<String>,
        trace: Option<std::ffi::OsString>,
        /// How often each point has been passed.
        // A std mutex: held for a few instructions, never across a wait.
        passed: Mutex<HashMap<String, usize>>,
    }

    static PLAN: LazyLock<Plan> = LazyLock::new(|| Plan {
        kill_at: std::env::var("KILL_AT_FAILPOINT").ok(),
        trace: std::env::var_os("TRACE_FAILPOINTS"),
        passed: Mutex::default(),
    });

    impl Plan {
        /// Whether this is where to die.
        fn is_at(&self, point: &str) -> bool {
            if self.kill_at.is_none() && self.trace.is_none() {
                return false;
            }
            let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
            let times = passed.entry(point.to_owned()).or_default();
            let name = match *times {
                0 => point.to_owned(),
                times => format!("{point}#{times}"),
            };
            *times += 1;
            if let Some(trace) = &self.trace {
                // What can't be written is missing there, and the test says so.
                let file = OpenOptions::new().create(true).append(true).open(trace);
                let _ = file.and_then(|mut file| writeln!(file, "{name}"));
            }
            self.kill_at.as_ref() == Some(&name)
        }
    }

    fn die() -> ! {
        #[cfg(unix)]
        {
            use nix::sys::signal::{Signal, kill};
            // It ends this very process: there is nothing to do about an error.
            let _ = kill(nix::unistd::Pid::this(), Signal::SIGKILL);
        }
        std::process::abort()
    }

    pub(crate) async fn around<T>(step: &str, work: impl Future<Output = T>) -> T {
        pass(&format!("before {step}"));
        let is_amid = PLAN.is_at(&format!("amid {step}"));
        let done = tokio::select! {
            biased;
            done = work => done,
            () = tokio::time::sleep(AMID), if is_amid => die(),
        };
        pass(&format!("after {step}"));
        done
    }

    pub(crate) fn pass(point: &str) {
        if PLAN.is_at(point) {
            die();
        }
    }
}
