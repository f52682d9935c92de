//! [`Wake`]: tells a relay in the same process that something was committed, so that it need not wait for its
//! next look.

use std::sync::Arc;

use tokio::sync::Notify;

/// Wakes the relays that were given it. Clones are the same.
///
/// Only a hint: a relay looks by itself too, four times a second at least. Across processes nothing is sent
/// (`NOTIFY` would make all commits of the database queue for one lock).
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// To be called after the commit; before it, the relay would look in vain. Costs next to nothing.
    pub fn wake(&self) {
        // One that is not waiting now looks again at once when it next would.
        self.0.notify_one();
    }

    pub(crate) async fn woken(&self) {
        self.0.notified().await;
    }
}
