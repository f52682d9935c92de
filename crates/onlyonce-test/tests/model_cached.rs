//! Every interleaving of what is kept of one record, checked: a store, an operator who forgets the record, two
//! processes with memories of their own and a cache that they share.
//!
//! The one thing that must never be: a request is answered with the old answer, from what was kept, when a new
//! execution may have begun. Whatever is on its way may take any time; processes stop between any two steps, for any
//! time. Each variant in [`Broken`] leaves out one part of the argument in [`onlyonce::cached`] and must be
//! caught.
//!
//! Time is counted in seconds, and each look at it is one step: what lies between that and the answer's last
//! byte is the boundary that the promise names.

use onlyonce::cached::CONFIRMED_FOR;
use onlyonce::store::operator::FREED_REST;
use stateright::{Checker, HasDiscoveries, Model, Property};

/// By then everything that was kept is too old, whatever happened.
const HORIZON: u64 = 5;
/// The generations before and after the decision.
const BEFORE: u8 = 0;
const AFTER: u8 = 1;

/// One part of the argument left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// A freed key takes claims at once.
    NoRest,
    /// What was read is kept with the generation that is confirmed when it has come.
    GenerationAfterReading,
    /// The shared cache's answer is used as it comes.
    NoSecondLook,
    /// A confirmation counts from when it came.
    CountedFromAnswer,
    /// What is kept is used in any generation.
    AnyGeneration,
}

#[derive(Debug, Clone)]
struct Kept {
    broken: Option<Broken>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    now: u64,
    record: Record,
    /// The generations under which the shared cache has the old answer.
    shared: [bool; 2],
    processes: [Process; 2],
    /// When the old answer was last used of what was kept.
    replayed: Replayed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Record {
    /// Completed, with the old answer.
    Old,
    /// An operator forgot it.
    Freed { at: u64 },
    /// A new owner may execute.
    Claimed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Replayed {
    /// While it was the answer, if ever.
    InTime,
    AfterTheDecision,
    /// A new execution may have begun.
    TooLate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Process {
    question: Option<Question>,
    /// A generation, and since when it counts as confirmed.
    confirmed: Option<(u8, u64)>,
    /// The generation under which it keeps the old answer.
    kept: Option<u8>,
    request: Option<Request>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Question {
    sent: u64,
    /// What the store said, once it has got there.
    answer: Option<u8>,
}

/// A request with the old answer on its way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Request {
    /// From the store, and to be kept with this generation.
    Store { confirmed: Option<u8> },
    /// From the shared cache, of this generation.
    Shared { generation: u8 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    Tick,
    Forget,
    Claim,
    Ask(usize),
    /// The question gets to the store.
    Confirm(usize),
    /// The answer gets back.
    Hear(usize),
    Request(usize),
    /// What a request waits for has come.
    Arrive(usize),
}

impl Kept {
    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// The generation that a process relies on now.
    fn current(state: &State, process: usize) -> Option<u8> {
        let (generation, since) = state.processes[process].confirmed?;
        (state.now - since < CONFIRMED_FOR.as_secs()).then_some(generation)
    }

    fn may_claim(&self, state: &State) -> bool {
        match state.record {
            Record::Freed { at } => {
                self.is(Broken::NoRest) || state.now >= at + FREED_REST.as_secs()
            }
            Record::Old | Record::Claimed => false,
        }
    }

    fn request(&self, state: &mut State, process: usize) {
        let confirmed = Self::current(state, process);
        if let Some(generation) = confirmed {
            let kept = state.processes[process].kept;
            if kept.is_some_and(|kept| kept == generation || self.is(Broken::AnyGeneration)) {
                state.replay();
                return;
            }
            if state.shared[usize::from(generation)] {
                state.processes[process].request = Some(Request::Shared { generation });
                return;
            }
        }
        if state.record == Record::Old {
            state.processes[process].request = Some(Request::Store { confirmed });
        }
    }

    fn arrive(&self, state: &mut State, process: usize, request: Request) {
        let now = Self::current(state, process);
        match request {
            Request::Store { mut confirmed } => {
                if self.is(Broken::GenerationAfterReading) {
                    confirmed = now;
                }
                if let Some(generation) = confirmed {
                    state.processes[process].kept = Some(generation);
                    state.shared[usize::from(generation)] = true;
                }
            }
            Request::Shared { generation } => {
                if now == Some(generation) || self.is(Broken::NoSecondLook) {
                    state.processes[process].kept = Some(generation);
                    state.replay();
                }
            }
        }
    }
}

impl State {
    /// A request is answered with the old answer, from what was kept.
    fn replay(&mut self) {
        let now = match self.record {
            Record::Old => Replayed::InTime,
            Record::Freed { .. } => Replayed::AfterTheDecision,
            Record::Claimed => Replayed::TooLate,
        };
        self.replayed = self.replayed.max(now);
    }

    fn generation(&self) -> u8 {
        if self.record == Record::Old {
            BEFORE
        } else {
            AFTER
        }
    }

    /// Forgets what decides nothing any longer, so that states which differ in it are one.
    fn forget_what_is_over(&mut self) {
        for process in &mut self.processes {
            process.confirmed = process
                .confirmed
                .filter(|(_, since)| self.now - since < CONFIRMED_FOR.as_secs());
        }
    }
}

impl Model for Kept {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            now: 0,
            record: Record::Old,
            shared: [false; 2],
            processes: [Process::default(); 2],
            replayed: Replayed::InTime,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now < HORIZON {
            actions.push(Action::Tick);
        }
        if state.record == Record::Old {
            actions.push(Action::Forget);
        }
        if self.may_claim(state) {
            actions.push(Action::Claim);
        }
        for (number, process) in state.processes.iter().enumerate() {
            actions.push(match process.question {
                None => Action::Ask(number),
                Some(Question { answer: None, .. }) => Action::Confirm(number),
                Some(_) => Action::Hear(number),
            });
            actions.push(match process.request {
                None => Action::Request(number),
                Some(_) => Action::Arrive(number),
            });
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => state.now += 1,
            Action::Forget => state.record = Record::Freed { at: state.now },
            Action::Claim => state.record = Record::Claimed,
            Action::Ask(process) => {
                state.processes[process].question = Some(Question {
                    sent: state.now,
                    answer: None,
                });
            }
            Action::Confirm(process) => {
                let generation = state.generation();
                state.processes[process].question.as_mut()?.answer = Some(generation);
            }
            Action::Hear(process) => {
                let question = state.processes[process].question.take()?;
                let since = if self.is(Broken::CountedFromAnswer) {
                    state.now
                } else {
                    question.sent
                };
                state.processes[process].confirmed = Some((question.answer?, since));
            }
            Action::Request(process) => self.request(&mut state, process),
            Action::Arrive(process) => {
                let request = state.processes[process].request.take()?;
                self.arrive(&mut state, process, request);
            }
        }
        state.forget_what_is_over();
        // A step that changes nothing is none.
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("the old answer is over", |_: &Self, state: &State| {
                state.replayed != Replayed::TooLate
            }),
            // Else the check would prove nothing.
            Property::sometimes(
                "it is replayed after the decision",
                |_: &Self, s: &State| s.replayed == Replayed::AfterTheDecision,
            ),
            Property::sometimes("a new execution begins", |_: &Self, state: &State| {
                state.record == Record::Claimed && state.processes.iter().all(|p| p.kept.is_some())
            }),
        ]
    }
}

fn check(broken: Option<Broken>) -> impl Checker<Kept> {
    let first_failure = HasDiscoveries::AnyFailures;
    let checker = Kept { broken }.checker().threads(2);
    checker.finish_when(first_failure).spawn_bfs().join()
}

#[test]
fn the_old_answer_is_over_when_a_new_execution_may_begin() {
    let checker = check(None);
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn each_broken_variant_is_caught() {
    for broken in [
        Broken::NoRest,
        Broken::GenerationAfterReading,
        Broken::NoSecondLook,
        Broken::CountedFromAnswer,
        Broken::AnyGeneration,
    ] {
        let path = check(Some(broken)).discovery("the old answer is over");
        let path = path.unwrap_or_else(|| panic!("{broken:?} is not caught"));
        println!("{broken:?}: {:?}", path.into_actions());
    }
}
