//! What a relay does beside publishing: it makes the days ahead, and drops those that are over.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::backoff::{Backoff, random};
use crate::connector::Connector;
use crate::error::Error;
use crate::{partition, retention};

const EVERY: Duration = Duration::from_secs(3_600);
/// The wait after a failure: the database may be back in a moment.
const AGAIN: Backoff = Backoff {
    base: Duration::from_secs(1),
    cap: Duration::from_secs(600),
};
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Detaching a day waits for its readers.
const STATEMENT_MAX: Duration = Duration::from_secs(600);

/// Goes on until what is returned is dropped. Failures are told and tried again.
pub(super) fn start(connector: Connector, keep: Option<Duration>) -> JoinSet<()> {
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut failures = 0;
        loop {
            // Several relays need not do it at the same time.
            let usual = EVERY.mul_f64(0.75 + 0.25 * random());
            let wait = match once(&connector, keep).await {
                Ok(()) => {
                    failures = 0;
                    usual
                }
                Err(error) => {
                    failures += 1;
                    // Rights that are missing do not come by asking often.
                    let wait = match error.is_refusal() {
                        true => usual,
                        false => AGAIN.after(failures),
                    };
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        ?wait,
                        "the outbox's partitions were not looked after"
                    );
                    wait
                }
            };
            sleep(wait).await;
        }
    });
    task
}

async fn once(connector: &Connector, keep: Option<Duration>) -> Result<(), Error> {
    let mut connection = connector.connect(CONNECT_MAX, STATEMENT_MAX).await?;
    partition::prepare(&mut connection).await?;
    if let Some(keep) = keep {
        retention::sweep(&mut connection, keep).await?;
    }
    Ok(())
}
