//! Tunnels: what a connection becomes after `101 Switching Protocols`.
//!
//! Bytes are copied both ways until both sides have ended, each side's end being passed on as such; until
//! neither has said anything for the idle timeout; or until a drain cuts them.

use std::io;
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::activity::Activity;

/// All open tunnels.
#[derive(Debug)]
pub(crate) struct Tunnels {
    tasks: TaskTracker,
    cut: CancellationToken,
    idle_max: Duration,
}

/// Read at once in each direction.
const BUFFER_BYTES: usize = 16 << 10;

impl Tunnels {
    pub(crate) fn new(idle_max: Duration) -> Self {
        Self {
            tasks: TaskTracker::new(),
            cut: CancellationToken::new(),
            idle_max,
        }
    }

    /// Connects the two sides once both have switched.
    pub(crate) fn open(&self, client: OnUpgrade, upstream: OnUpgrade) {
        let cut = self.cut.clone();
        let idle_max = self.idle_max;
        self.tasks.spawn(async move {
            let outcome = tokio::select! {
                outcome = tunnel(client, upstream, idle_max) => outcome,
                () = cut.cancelled() => Err(io::Error::other("cut by a drain").into()),
            };
            if let Err(error) = outcome {
                debug!(%error, "tunnel ended");
            }
        });
    }

    /// Waits up to `limit`, then cuts what is left and says how many that were.
    pub(crate) async fn drain(&self, limit: Duration) -> usize {
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_ok() {
            return 0;
        }
        let left = self.tasks.len();
        self.cut.cancel();
        self.tasks.wait().await;
        left
    }
}

async fn tunnel(
    client: OnUpgrade,
    upstream: OnUpgrade,
    idle_max: Duration,
) -> Result<(), onlyonce::BoxError> {
    let activity = Activity::new();
    let copying = async {
        let (client, upstream) = tokio::try_join!(client, upstream)?;
        copy_both_ways(client, upstream, &activity).await?;
        Ok(())
    };
    tokio::select! {
        outcome = copying => outcome,
        () = activity.quiet_for(idle_max) => Err("idle for too long".into()),
    }
}

async fn copy_both_ways(
    client: Upgraded,
    upstream: Upgraded,
    activity: &Activity,
) -> io::Result<()> {
    let (client_read, client_write) = split(TokioIo::new(client));
    let (upstream_read, upstream_write) = split(TokioIo::new(upstream));
    tokio::try_join!(
        copy(client_read, upstream_write, activity),
        copy(upstream_read, client_write, activity),
    )?;
    Ok(())
}

/// Copies until the reader's end, and then ends the writer: the other direction may go on.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    activity: &Activity,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        activity.touch();
        to.write_all(&buffer[..read]).await?;
        activity.touch();
    }
}
