//! Answers for callers of several runtimes, each told where it is.
//!
//! The obvious thing, to answer each caller from whatever thread did the work, wakes a task on another runtime for
//! each of them: one system call each, where a proxy has a runtime for each core. So what callers of one runtime
//! are told goes there in one piece, and wakes them from there.

use tokio::runtime::Handle;

/// Calls `tell` with each: at once for those of this runtime, or of none; by one task there for those of another.
///
/// Where a runtime has ended they are dropped, and so are those who waited there.
pub(crate) fn tell_where_they_are<T: Send + 'static>(
    callers: Vec<T>,
    runtime_of: impl Fn(&T) -> Option<&Handle>,
    tell: impl Fn(T) + Clone + Send + 'static,
) {
    let here = Handle::try_current().map(|runtime| runtime.id()).ok();
    let id_of = |caller: &T| runtime_of(caller).map(Handle::id);
    let (near, mut far): (Vec<_>, Vec<_>) =
        (callers.into_iter()).partition(|caller| id_of(caller).is_none_or(|id| here == Some(id)));
    while let Some(first) = far.first()
        && let Some(runtime) = runtime_of(first).cloned()
    {
        let there = Some(runtime.id());
        // The callers' own handles go along: what counts their clones stays where they were made.
        let bundle: Vec<_> = far
            .extract_if(.., |caller| id_of(caller) == there)
            .collect();
        let tell = tell.clone();
        runtime.spawn(async move { bundle.into_iter().for_each(tell) });
    }
    near.into_iter().for_each(tell);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::{Builder, Runtime};
    use tokio::sync::oneshot;

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn callers_are_told_where_they_are() {
        let runtimes = [runtime(), runtime(), runtime()];
        let (callers, answers): (Vec<_>, Vec<_>) = (0..9)
            .map(|number| {
                let (caller, answer) = oneshot::channel();
                let runtime = runtimes[number % 3].handle().clone();
                ((number, runtime, caller), (number, answer))
            })
            .unzip();
        runtimes[0].block_on(async {
            tell_where_they_are(
                callers,
                |(_, runtime, _)| Some(runtime),
                |(number, _, caller)| caller.send(number).unwrap(),
            );
        });
        let (near, far): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(n, _)| n % 3 == 0);
        for (number, mut answer) in near {
            assert_eq!(answer.try_recv(), Ok(number));
        }
        // By a task that is to run yet.
        for (number, mut answer) in far {
            assert!(number > 2 || answer.try_recv().is_err(), "{number}");
            assert_eq!(runtimes[number % 3].block_on(answer), Ok(number));
        }
    }

    #[test]
    fn those_of_no_runtime_are_told_at_once() {
        let (caller, mut answer) = oneshot::channel();
        tell_where_they_are(vec![caller], |_| None, |caller| caller.send(()).unwrap());
        assert_eq!(answer.try_recv(), Ok(()));
    }

    #[test]
    fn where_a_runtime_has_ended_its_callers_are_dropped() {
        let ended = runtime();
        let handle = ended.handle().clone();
        drop(ended);
        let (caller, answer) = oneshot::channel::<()>();
        let told = |(_, caller): (Handle, oneshot::Sender<()>)| caller.send(()).unwrap();
        tell_where_they_are(vec![(handle, caller)], |(handle, _)| Some(handle), told);
        assert!(runtime().block_on(answer).is_err());
    }
}
