//! A timer that is set for every request and nearly never goes off.
//!
//! To put a timer into the runtime's wheel and to take it out again costs a lock and a walk each. One that
//! stays in the wheel and is only ever postponed costs neither: so one is kept per connection.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt;
use tokio::time::{Instant, Sleep, sleep_until};

/// Goes off when it was last told to.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `due` has come. The last one to ask is woken then, or, if `due` is postponed in the
    /// meantime, now and then for nothing.
    pub(crate) fn poll(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        // Left alone where it is set too soon, which it nearly always is: it is set anew once it went off.
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
        Poll::Pending
    }
}

/// The timer that hyper uses for one connection: all it waits for is the head of the next request.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeadTimer(Arc<Mutex<Alarm>>);

struct HeadSleep {
    alarm: Arc<Mutex<Alarm>>,
    due: Instant,
}

impl rt::Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until((Instant::now() + duration).into_std())
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(HeadSleep {
            alarm: Arc::clone(&self.0),
            due: deadline.into(),
        })
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

impl rt::Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Nothing that holds it can panic half-way through a change.
        let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        alarm.poll(self.due, cx)
    }
}

impl fmt::Debug for HeadSleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeadSleep")
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_goes_off_when_it_was_last_told_to() {
        let start = Instant::now();
        let mut alarm = Alarm::default();
        let mut expect = async |seconds: u32| {
            let due = start + SECOND * seconds;
            poll_fn(|cx| alarm.poll(due, cx)).await;
            assert_eq!(Instant::now(), due);
        };
        expect(5).await;
        expect(7).await; // once more, after it went off

        let (sooner, later) = (start + SECOND * 8, start + SECOND * 20);
        let mut told = [later, later + SECOND, sooner].into_iter();
        let mut due = later;
        poll_fn(|cx| {
            for next in told.by_ref() {
                due = next;
                assert!(alarm.poll(due, cx).is_pending());
            }
            alarm.poll(due, cx)
        })
        .await;
        assert_eq!(Instant::now(), sooner);
    }
}
