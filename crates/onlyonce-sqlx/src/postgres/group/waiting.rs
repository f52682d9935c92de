//! A call that waits for its group, and how it is told.

use onlyonce::store::StoreError;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Grouped, Said};
use crate::runtimes::tell_where_they_are;

/// A call that waits.
pub(super) struct Waiting<W: Grouped> {
    pub(super) write: W,
    pub(super) since: Instant,
    pub(super) caller: Caller<W::Done>,
}

/// Where its answer goes.
pub(super) struct Caller<T> {
    answer: oneshot::Sender<Said<T>>,
    runtime: Handle,
}

impl<W: Grouped> Waiting<W> {
    pub(super) fn new(write: W) -> (Self, oneshot::Receiver<Said<W::Done>>) {
        let (sender, answer) = oneshot::channel();
        let waiting = Self {
            write,
            since: Instant::now(),
            caller: Caller {
                answer: sender,
                runtime: Handle::current(),
            },
        };
        (waiting, answer)
    }

    /// Whether its caller still waits.
    pub(super) fn is_wanted(&self) -> bool {
        !self.caller.answer.is_closed()
    }
}

impl<T> Caller<T> {
    fn hears(self, said: Said<T>) {
        // Who has left is told nothing.
        let _ = self.answer.send(said);
    }
}

/// What callers are told.
pub(super) struct Told<T>(Vec<(Caller<T>, Said<T>)>);

impl<T: Send + 'static> Told<T> {
    pub(super) fn each(callers: impl IntoIterator<Item = (Caller<T>, Said<T>)>) -> Self {
        Self(callers.into_iter().collect())
    }

    /// Tells all of them the same.
    pub(super) fn all<W: Grouped<Done = T>>(
        waiting: Vec<Waiting<W>>,
        say: impl Fn() -> Said<T>,
    ) -> Self {
        Self::each(waiting.into_iter().map(|waiting| (waiting.caller, say())))
    }

    /// Tells them.
    pub(super) fn tell(self) {
        tell_where_they_are(
            self.0,
            |(caller, _)| Some(&caller.runtime),
            |(caller, said)| caller.hears(said),
        );
    }
}

/// What those hear whose call was not sent in time.
pub(super) fn not_in_time<T>() -> Said<T> {
    let said = "the database did not get to this call in time";
    Err(StoreError::not_applied(
        onlyonce::store::StoreErrorKind::Timeout,
        said,
    ))
}
