//! Turns the steps of a create into MCP progress notifications, in order and all before the answer.

use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext, RoleServer};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::instance::{Progress, ProgressSink};

/// Pull or initialise, create, start, wait.
const STEPS: f64 = 4.0;
/// How far each further notification of one step is ahead at least: MCP wants progress to grow every time.
const SMALLEST_ADVANCE: f64 = 0.001;

/// Where the steps of one call go, and what tells the client of them.
pub(super) fn channel(context: &RequestContext<RoleServer>) -> (ProgressSink, Telling) {
    let Some(token) = context.meta.get_progress_token() else {
        return (ProgressSink::none(), Telling(None));
    };
    let (sender, steps) = mpsc::unbounded_channel();
    let sink = ProgressSink::new(move |step| {
        // The receiver is gone once the call is: nobody waits for the step then.
        let _ = sender.send(step);
    });
    let teller = Teller {
        peer: context.peer.clone(),
        token,
        steps,
        last: 0.0,
    };
    (sink, Telling(Some(teller)))
}

/// Tells a client that asked for it, and only that one.
pub(super) struct Telling(Option<Teller>);

impl Telling {
    /// Runs `call`, telling its steps as they come; ends once the last one is sent.
    pub(super) async fn during<T>(self, call: impl Future<Output = T>) -> T {
        let Some(teller) = self.0 else {
            return call.await;
        };
        let ended = CancellationToken::new();
        let call = async {
            let _end = ended.clone().drop_guard();
            call.await
        };
        let (outcome, ()) = tokio::join!(call, teller.tell_until(&ended));
        outcome
    }
}

struct Teller {
    peer: Peer<RoleServer>,
    token: ProgressToken,
    steps: mpsc::UnboundedReceiver<Progress>,
    last: f64,
}

impl Teller {
    async fn tell_until(mut self, ended: &CancellationToken) {
        loop {
            tokio::select! {
                biased;
                step = self.steps.recv() => match step {
                    Some(step) => self.tell(&step).await,
                    None => return,
                },
                () = ended.cancelled() => return,
            }
        }
    }

    async fn tell(&mut self, step: &Progress) {
        let end = if matches!(step, Progress::Pulling { .. }) {
            1.0 - SMALLEST_ADVANCE
        } else {
            STEPS
        };
        let next = position(step).max(self.last + SMALLEST_ADVANCE).min(end);
        if next <= self.last {
            return;
        }
        self.last = next;
        let told = ProgressNotificationParam::new(self.token.clone(), self.last)
            .with_total(STEPS)
            .with_message(step.to_string());
        if let Err(error) = self.peer.notify_progress(told).await {
            tracing::debug!(%error, "progress could not be sent");
        }
    }
}

/// How far along a step is: the pull fills the first of four quarters as its bytes arrive.
fn position(step: &Progress) -> f64 {
    match step {
        Progress::Pulling { total_bytes: 0, .. } | Progress::Initialising { .. } => 0.0,
        #[expect(clippy::cast_precision_loss, reason = "a fraction for a progress bar")]
        Progress::Pulling {
            done_bytes,
            total_bytes,
            ..
        } => (*done_bytes as f64 / *total_bytes as f64).min(1.0),
        Progress::Creating => 1.0,
        Progress::Starting => 2.0,
        Progress::Waiting => 3.0,
    }
}
