//! [`Wake`]: tells the relays in the same process that something was committed, so that they need not wait for
//! their next look.

use tokio::sync::watch;

/// Wakes all relays that were given it, whatever their sinks. Clones are the same.
///
/// Only a hint: a relay looks by itself too, four times a second at least. Across processes nothing is sent
/// (`NOTIFY` would make all commits of the database queue for one lock).
#[derive(Debug, Clone, Default)]
pub struct Wake(watch::Sender<()>);

impl Wake {
    /// To be called after the commit; before it, the relays would look in vain. Costs next to nothing.
    pub fn wake(&self) {
        self.0.send_replace(());
    }

    pub(crate) fn subscribe(&self) -> Woken {
        Woken {
            told: self.0.subscribe(),
            // So that it can always be told.
            _wake: self.clone(),
        }
    }
}

/// A relay's ear.
#[derive(Debug)]
pub(crate) struct Woken {
    told: watch::Receiver<()>,
    _wake: Wake,
}

impl Woken {
    /// Returns when there was a call since the last return.
    pub(crate) async fn woken(&mut self) {
        // Cannot fail: a sender is kept beside it.
        let _ = self.told.changed().await;
    }
}
