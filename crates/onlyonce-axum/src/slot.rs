//! Where a request's transaction lies while nobody works with it: in the request's extensions.
//!
//! An extractor takes it out and gives it back when it is dropped. When the handler has answered, the slot is closed:
//! what is given back later, by a task that the handler left behind, is rolled back.

use std::fmt;
use std::mem::replace;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::settings::Settings;
use crate::work::Work;

/// A request's place for its transaction. Clones are the same place.
#[derive(Clone)]
pub(crate) struct Slot(Arc<Mutex<State>>);

enum State {
    /// Begun, and untouched.
    Ready(Box<Work>),
    /// To be begun by whoever asks first: a request without a key.
    Unbegun(Arc<Settings>),
    /// Somebody works with it.
    Lent,
    /// Somebody has worked with it.
    Back(Box<Work>),
    /// The request is over.
    Closed,
}

/// What an extractor finds.
pub(crate) enum Taken {
    Work(Box<Work>),
    /// The caller begins it.
    Unbegun(Arc<Settings>),
    /// It is taken already, or the request is over.
    Nothing,
}

/// What is there when the request is over.
pub(crate) enum Left {
    /// Nobody asked for it.
    Untouched(Option<Box<Work>>),
    /// Somebody worked with it.
    Used(Box<Work>),
    /// Somebody still does.
    Missing,
}

impl Slot {
    pub(crate) fn ready(work: Box<Work>) -> Self {
        Self::with(State::Ready(work))
    }

    pub(crate) fn unbegun(settings: Arc<Settings>) -> Self {
        Self::with(State::Unbegun(settings))
    }

    fn with(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn take(&self) -> Taken {
        let mut state = self.state();
        match replace(&mut *state, State::Lent) {
            State::Ready(work) | State::Back(work) => Taken::Work(work),
            State::Unbegun(settings) => Taken::Unbegun(settings),
            other @ (State::Lent | State::Closed) => {
                *state = other;
                Taken::Nothing
            }
        }
    }

    pub(crate) fn give_back(&self, work: Box<Work>) {
        let mut state = self.state();
        match &*state {
            State::Lent => *state = State::Back(work),
            // Too late. Dropped once the lock is free: that closes the connection.
            _ => {
                drop(state);
                drop(work);
            }
        }
    }

    /// Whether nobody has asked for a transaction that was not begun.
    pub(crate) fn is_unbegun(&self) -> bool {
        matches!(*self.state(), State::Unbegun(_))
    }

    /// Ends the request's part.
    pub(crate) fn close(&self) -> Left {
        match replace(&mut *self.state(), State::Closed) {
            State::Ready(work) => Left::Untouched(Some(work)),
            State::Unbegun(_) | State::Closed => Left::Untouched(None),
            State::Back(work) => Left::Used(work),
            State::Lent => Left::Missing,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is a single step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}
