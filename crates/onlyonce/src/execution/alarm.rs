//! What ends a wait before its time: the clock, and drain.
//!
//! A request waits several times, each time with a limit of its own, and hardly ever reaches one. A timer for each
//! of them would be entered among the runtime's timers and taken out again, under a lock, as often. So a
//! request has one timer. It is made when the request first has to wait, set no further than [`EARLY`], and left
//! where it is as long as no limit comes before it; a request that is still there when it goes off sets it anew.
//! With drain's word it is the same: who waits listens to it from then on.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::sync::futures::OwnedNotified;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::abort::Abort;

/// Below the limits that come late in a request, and above the time that most requests take.
const EARLY: Duration = Duration::from_secs(1);

/// Why a wait ended without what was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Cut {
    #[error("the time for it is over")]
    Elapsed,
    #[error("the service is stopping")]
    Aborted,
}

/// A request's one timer, and its ear for drain.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Pin<Box<Set>>>);

impl Alarm {
    /// Waits for `future` until `until`. It is polled first: what is there counts, however late it is.
    pub(super) fn limit<'a, F>(
        &'a mut self,
        abort: &'a Abort,
        until: Instant,
        future: F,
    ) -> Limited<'a, F> {
        Limited {
            alarm: self,
            abort,
            until,
            abortable: false,
            future,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, abort: &Abort, until: Instant) -> Poll<()> {
        let set = self.0.get_or_insert_with(|| {
            Box::pin(Set {
                timer: sleep_until(until.min(Instant::now() + EARLY)),
                aborted: abort.listen(),
                waker: None,
            })
        });
        set.as_mut().poll_elapsed(cx, until)
    }
}

pin_project! {
    #[derive(Debug)]
    struct Set {
        #[pin]
        timer: Sleep,
        #[pin]
        aborted: OwnedNotified,
        // Whom both of them wake.
        waker: Option<Waker>,
    }
}

impl Set {
    fn poll_elapsed(self: Pin<&mut Self>, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let mut this = self.project();
        let known = |waker: &Waker| waker.will_wake(cx.waker());
        let mut told = this.waker.as_ref().is_some_and(known);
        if until < this.timer.deadline() {
            this.timer.as_mut().reset(until);
            told = false;
        }
        loop {
            if !told {
                *this.waker = Some(cx.waker().clone());
                // A future that used up the task's share of time must not keep its limit from being seen.
                let _ = Pin::new(&mut unconstrained(this.aborted.as_mut())).poll(cx);
                let _ = Pin::new(&mut unconstrained(this.timer.as_mut())).poll(cx);
            }
            if !this.timer.is_elapsed() {
                return Poll::Pending;
            }
            if this.timer.deadline() >= until || Instant::now() >= until {
                return Poll::Ready(());
            }
            this.timer.as_mut().reset(until);
            told = false;
        }
    }
}

pin_project! {
    /// A wait with a limit.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless they are polled"]
    pub(super) struct Limited<'a, F> {
        alarm: &'a mut Alarm,
        abort: &'a Abort,
        until: Instant,
        abortable: bool,
        #[pin]
        future: F,
    }
}

impl<F> Limited<'_, F> {
    /// Ends when drain gives up, too.
    pub(super) fn or_aborted(self) -> Self {
        Self {
            abortable: true,
            ..self
        }
    }
}

impl<F: Future> Future for Limited<'_, F> {
    type Output = Result<F::Output, Cut>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let elapsed = this.alarm.poll(cx, this.abort, *this.until).is_ready();
        // Asked after it is listened to, so that a word in between is not missed.
        if *this.abortable && this.abort.is_said() {
            return Poll::Ready(Err(Cut::Aborted));
        }
        if elapsed {
            return Poll::Ready(Err(Cut::Elapsed));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{advance, sleep};

    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_ends_at_its_own_limit_whatever_the_one_before_had() {
        let (mut alarm, abort) = (Alarm::default(), Abort::default());
        for millis in [10_000, 10, 1500, 0, 1, 60_000, 999, 1000, 1001] {
            let start = Instant::now();
            let limit = Duration::from_millis(millis);
            let cut = alarm.limit(&abort, start + limit, pending::<()>()).await;
            assert_eq!((cut, start.elapsed()), (Err(Cut::Elapsed), limit));
            // It has gone off, and nobody has waited since.
            advance(secs(3)).await;
        }
        let past = Instant::now() - secs(1);
        assert_eq!(alarm.limit(&abort, past, ready(7)).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_holds_in_another_task_than_the_one_before() {
        let (mut alarm, abort) = (Alarm::default(), Abort::default());
        let start = Instant::now();
        let waited = alarm.limit(&abort, start + secs(9), sleep(secs(1) / 2));
        assert_eq!(waited.await, Ok(()));
        let other = tokio::spawn(async move {
            let cut = alarm.limit(&abort, start + secs(9), pending::<()>()).await;
            (cut, start.elapsed())
        });
        assert_eq!(other.await.unwrap(), (Err(Cut::Elapsed), secs(9)));
    }

    #[tokio::test(start_paused = true)]
    async fn drain_ends_only_the_waits_that_it_may_end() {
        let (mut alarm, abort) = (Alarm::default(), Abort::default());
        let start = Instant::now();
        let end = start + secs(9);
        let said = async {
            sleep(secs(2)).await;
            abort.say();
        };
        let waits = async {
            let through = alarm.limit(&abort, start + secs(1), pending::<()>()).await;
            let cut = alarm.limit(&abort, end, pending::<()>()).or_aborted().await;
            (through, cut, start.elapsed())
        };
        let (waited, ()) = tokio::join!(waits, said);
        assert_eq!(waited, (Err(Cut::Elapsed), Err(Cut::Aborted), secs(2)));
        let again = alarm.limit(&abort, end, pending::<()>()).or_aborted().await;
        assert_eq!(again, Err(Cut::Aborted));
        let through = alarm.limit(&abort, end, pending::<()>()).await;
        assert_eq!((through, start.elapsed()), (Err(Cut::Elapsed), secs(9)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_always_busy_is_cut_all_the_same() {
        let (mut alarm, abort) = (Alarm::default(), Abort::default());
        let busy = std::future::poll_fn(|cx| {
            // Uses up the task's share of time, as a full channel does.
            while tokio::task::coop::poll_proceed(cx)
                .map(|share| share.made_progress())
                .is_ready()
            {}
            Poll::<()>::Pending
        });
        let ticks = async {
            loop {
                tokio::task::yield_now().await;
                advance(secs(1)).await;
            }
        };
        let limit = Instant::now() + secs(5);
        tokio::select! {
            cut = alarm.limit(&abort, limit, busy) => assert_eq!(cut, Err(Cut::Elapsed)),
            () = ticks => unreachable!("it ticks for ever"),
        }
    }
}
