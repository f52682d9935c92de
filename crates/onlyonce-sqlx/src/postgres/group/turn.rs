//! Who sends groups: for each lane one at a time, so that calls gather while a group is on its way.
//!
//! The first call on a lane that rests begins a turn and sends itself, from its own task. Where others came
//! meanwhile a task takes the turn over, sends group after group, and ends when nobody waits.
//!
//! Hazard: a turn is dropped at any point, with the call that began it or with its runtime. Whoever waits then
//! is passed on or told; a lane that nobody serves and that says it is served would hold up all that follow.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use onlyonce::store::StoreErrorKind;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::super::call::{self, Call};
use super::super::failure::Failure;
use super::super::session::Session;
use super::waiting::{Caller, Told, Waiting, not_in_time};
use super::{Grouped, OnItsWay, Outcome, Shared};

/// How often it is looked at whether a group hangs.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The right to send a lane's groups.
pub(super) struct Turn<W: Grouped> {
    lane: Arc<Shared<W>>,
    by: By,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// The call that came first.
    Call,
    /// A task of its own.
    Task,
    /// Nobody any more.
    Nobody,
}

impl<W: Grouped> Turn<W> {
    /// Begins a turn, once the queue has said so.
    pub(super) fn begin(lane: &Arc<Shared<W>>) -> Self {
        Self {
            lane: Arc::clone(lane),
            by: By::Call,
        }
    }

    /// Sends one group, and has an eye on those that wait meanwhile.
    pub(super) async fn send(&self, group: Vec<Waiting<W>>) {
        let mut sending = std::pin::pin!(send(&self.lane, group));
        while timeout(LOOK_EVERY, &mut sending).await.is_err() {
            self.lane.look();
        }
    }

    /// Sends group after group while somebody waits.
    async fn send_all(mut self) {
        loop {
            let next = self.lane.queue().next();
            match next {
                Some(group) if group.is_empty() => {}
                Some(group) => self.send(group).await,
                None => return self.by = By::Nobody,
            }
        }
    }
}

impl<W: Grouped> Drop for Turn<W> {
    fn drop(&mut self) {
        let lane = Arc::clone(&self.lane);
        match (self.by, Handle::try_current()) {
            (By::Nobody, _) => {}
            (By::Call, Ok(_)) if !lane.queue().ends() => {
                // Where the runtime ends just now the task is dropped at once, and tells them.
                let by = By::Task;
                tokio::spawn(Self { lane, by }.send_all());
            }
            (By::Call, Ok(_)) => {}
            (By::Call | By::Task, _) => lane.abandon(),
        }
    }
}

impl<W: Grouped> Shared<W> {
    /// Those that waited too long are told so; and behind a group that hangs nobody waits.
    fn look(&self) {
        if self.on_its_way.look() {
            let waiting = self.queue().take_all();
            Told::all(waiting, || Ok(Outcome::GoOn { doubt: false })).tell();
        } else {
            let expired = self.queue().take_expired(self.call_timeout);
            Told::all(expired, not_in_time).tell();
        }
    }

    fn abandon(&self) {
        let waiting = self.queue().abandon();
        Told::all(waiting, || Ok(Outcome::GoOn { doubt: false })).tell();
    }
}

/// Sends a group and tells its callers what came of it.
async fn send<W: Grouped>(lane: &Shared<W>, group: Vec<Waiting<W>>) {
    let group = Group {
        gathered: Mutex::new(group),
        taken: OnceLock::new(),
        on_its_way: &lane.on_its_way,
    };
    let performed = call::perform(&lane.pool, lane.call_timeout, &group).await;
    // Where there was no connection for it, nothing was taken.
    group.take();
    let callers = group.taken.into_inner().unwrap_or_default().callers;
    let told = match performed {
        Ok(Answer { written, doubt }) => {
            let outcome = |done: Option<_>| done.map_or(Outcome::GoOn { doubt }, Outcome::Done);
            let said = written.into_iter().map(|done| Ok(outcome(done)));
            Told::each(callers.into_iter().zip(said))
        }
        // The server is away or does not answer, for each of them alone as well.
        Err(error) if error.is_transient() => Told::each(
            callers
                .into_iter()
                .map(|caller| (caller, Err(error.clone()))),
        ),
        Err(error) => {
            tracing::debug!(%error, calls = callers.len(), "a group failed; each call goes on alone");
            let doubt = error.may_have_applied();
            Told::each(
                callers
                    .into_iter()
                    .map(|caller| (caller, Ok(Outcome::GoOn { doubt }))),
            )
        }
    };
    told.tell();
}

struct Group<'a, W: Grouped> {
    gathered: Mutex<Vec<Waiting<W>>>,
    /// Set by the first try, once it has a connection: until then a caller may leave and be sure.
    taken: OnceLock<Taken<W>>,
    on_its_way: &'a OnItsWay,
}

struct Taken<W: Grouped> {
    writes: Vec<W>,
    callers: Vec<Caller<W::Done>>,
}

impl<W: Grouped> Default for Taken<W> {
    fn default() -> Self {
        Self {
            writes: Vec::new(),
            callers: Vec::new(),
        }
    }
}

impl<W: Grouped> Group<'_, W> {
    fn take(&self) -> &Taken<W> {
        self.taken.get_or_init(|| {
            let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            let wanted = gathered.drain(..).filter(Waiting::is_wanted);
            let (writes, callers) = wanted.map(|w| (w.write, w.caller)).unzip();
            Taken { writes, callers }
        })
    }
}

struct Answer<T> {
    written: Vec<Option<T>>,
    /// Whether an earlier try may have written what this one found written.
    doubt: bool,
}

impl<W: Grouped> Call for Group<'_, W> {
    type Output = Answer<W::Done>;

    async fn run(&self, session: &mut Session<'_>) -> Result<Self::Output, Failure> {
        let doubt = self.taken.get().is_some();
        let Taken { writes, .. } = self.take();
        if writes.is_empty() {
            let written = Vec::new();
            return Ok(Answer { written, doubt });
        }
        let _sent = self.on_its_way.sent();
        match W::write(writes, session).await {
            Ok(written) => Ok(Answer { written, doubt }),
            // One row is held by somebody: the others need not wait for it once more.
            Err(mut failure) if failure.is_lock_timeout() => {
                failure.kind = StoreErrorKind::Other;
                failure.retry = false;
                Err(failure)
            }
            Err(failure) => Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Settings;
    use super::super::super::pool::Pool;
    use super::super::queue::Entered;
    use super::super::{Lane, Said};
    use super::*;
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::Poll;

    use onlyonce::RecordId;
    use tokio::runtime::{Builder, Runtime};

    struct Write(u8);

    impl Grouped for Write {
        type Done = ();

        fn id(&self) -> RecordId {
            RecordId::from_bytes([self.0; 16])
        }

        fn bytes(&self) -> usize {
            0
        }

        async fn write(group: &[Self], _: &mut Session<'_>) -> Result<Vec<Option<()>>, Failure> {
            Ok(vec![Some(()); group.len()])
        }
    }

    /// A lane whose server cannot be found.
    fn lane() -> Lane<Write> {
        let settings: Settings = "postgres://nobody.invalid/none".parse().unwrap();
        Lane::new(Arc::new(Pool::new(&settings)), settings.call_timeout)
    }

    fn begin(lane: &Lane<Write>) -> Turn<Write> {
        let entered = lane.0.queue().enter(Waiting::new(Write(0)).0);
        assert!(matches!(entered, Entered::First(_)));
        Turn::begin(&lane.0)
    }

    fn is_sent_away(said: Said<()>) -> bool {
        matches!(said, Ok(Outcome::GoOn { doubt: false }))
    }

    /// Whether it waits once it was polled.
    async fn is_pending(future: &mut (impl Future + Unpin)) -> bool {
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[tokio::test]
    async fn those_behind_a_call_that_left_are_sent_all_the_same() {
        let lane = lane();
        let turn = begin(&lane);
        let behind = lane.join(Write(1));
        tokio::pin!(behind);
        assert!(is_pending(&mut behind).await);
        drop(turn);
        // By a task, which finds no server.
        assert!(behind.await.unwrap_err().is_transient());
        // And ends: whoever comes next begins a turn.
        tokio::task::yield_now().await;
        assert!(lane.0.queue().ends());
    }

    #[tokio::test]
    async fn behind_a_group_that_hangs_nothing_queues_up() {
        let lane = lane();
        let turn = begin(&lane);
        let behind = lane.join(Write(1));
        tokio::pin!(behind);
        assert!(is_pending(&mut behind).await);
        tokio::time::pause();
        let sent = lane.0.on_its_way.sent();
        tokio::time::advance(Duration::from_secs(1)).await;
        lane.0.look();
        assert!(is_sent_away(behind.await));
        assert!(is_sent_away(lane.join(Write(2)).await));
        drop((sent, turn));
        assert!(!lane.0.on_its_way.is_stalled());
    }

    /// Its task is there, and gets no turn.
    #[tokio::test(start_paused = true)]
    async fn behind_a_call_that_nobody_polls_there_is_an_end() {
        let lane = lane();
        let _turn = begin(&lane);
        let error = lane.join(Write(1)).await.unwrap_err();
        assert!(error.may_have_applied() && error.is_transient());
    }

    #[test]
    fn where_the_runtime_ends_those_who_wait_on_another_go_on_alone() {
        let (lane, other) = (lane(), runtime());
        let (turn, behind) = other.block_on(async {
            let (waiting, answer) = Waiting::new(Write(1));
            let turn = begin(&lane);
            assert!(matches!(lane.0.queue().enter(waiting), Entered::Behind));
            (turn, answer)
        });
        let ending = runtime();
        ending.spawn(async move {
            let _turn = turn;
            std::future::pending::<()>().await;
        });
        ending.block_on(tokio::task::yield_now());
        drop(ending);
        assert!(is_sent_away(other.block_on(behind).unwrap()));
        assert!(lane.0.queue().ends());
    }
}
