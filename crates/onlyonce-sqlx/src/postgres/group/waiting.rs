//! A call that waits for its group, and how it is told.
//!
//! The obvious thing, to answer each call from the task that sends groups, wakes a task on another runtime for
//! each of them: one system call each, where a proxy has a runtime for each core. So what calls of another
//! runtime are told goes there in one piece, and wakes them from there.

use onlyonce::store::StoreError;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Grouped, Said};

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

    /// Tells them: those of another runtime by way of one task there.
    pub(super) fn tell(self) {
        let here = Handle::try_current().map(|runtime| runtime.id()).ok();
        let (near, mut far): (Vec<_>, Vec<_>) =
            (self.0.into_iter()).partition(|(caller, _)| here == Some(caller.runtime.id()));
        while let Some((caller, _)) = far.first() {
            // The callers' own handles go along: what counts their clones stays where they were made.
            let runtime = caller.runtime.clone();
            let there = runtime.id();
            let bundle: Vec<_> = far
                .extract_if(.., |(caller, _)| caller.runtime.id() == there)
                .collect();
            runtime.spawn(async move {
                bundle
                    .into_iter()
                    .for_each(|(caller, said)| caller.hears(said))
            });
        }
        near.into_iter()
            .for_each(|(caller, said)| caller.hears(said));
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
