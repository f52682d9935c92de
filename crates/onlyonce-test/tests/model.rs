//! Every interleaving of a small system, checked: requests with one key, two proxies, a database.
//!
//! The model moves messages, clocks and crashes; what a row permits is decided by the functions that the
//! stores use ([`onlyonce::store::decision`], [`onlyonce::store::operator::refuse`]). Statements arrive
//! late, twice or not at all; answers get lost, after `COMMIT` too; a process stops between any two steps,
//! for any time or for good (it just takes no step); the database's clock jumps once; an operator who has
//! looked at the upstream frees the key.
//!
//! A check that cannot fail proves nothing: each variant in [`Broken`] leaves out one part of the design
//! and must be caught.
//!
//! Time is counted in units of five seconds. What the model leaves out: loss of acknowledged commits,
//! the end of retention, the rest of a key that was freed (it only delays), and a process that is stopped between its last look at the deadline and its
//! first byte (one step here): the boundaries that the promise names.

use std::collections::BTreeSet;
use std::time::Duration;

use onlyonce::store::decision::{
    ClaimDecision, Rest, Row, SettleDecision, decide_claim, decide_settle,
};
use onlyonce::store::operator::{LEASE_MARGIN, Resolution, Summary, refuse};
use onlyonce::store::{Claim, OnUnknown, Settlement};
use onlyonce::{CredentialHash, Epoch, Fingerprint, RecordId, StoredState, Timestamp, Token};
use stateright::{Checker, HasDiscoveries, Model, Property};

const UNIT: Duration = LEASE_MARGIN;
const DEADLINE: i8 = 2;
const START_BY: i8 = DEADLINE / 2;
const LEASE: i8 = DEADLINE + 1;
/// Once, the database's clock jumps by this, forward or back. The protocol bears a jump forward of less than
/// lease + deadline - deadline / 2 within a request, before which no operator frees what may yet be sent.
const JUMP: i8 = 2;
/// What the clocks of the two proxies show beyond the true time. Nothing may depend on it.
const WALL_CLOCKS: [i8; 2] = [0, 6];
/// A start that is too late to send anything.
const LONG_AGO: i8 = -START_BY;
/// No claim reaches the database after this.
const CLAIMS_END: i8 = 4;
/// By then every lease has lapsed, whatever the clock did.
const HORIZON: i8 = CLAIMS_END + LEASE + JUMP;

/// One part of the design left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// A take-over does not compare the epoch that it read.
    NoEpoch,
    /// The claim reads, and inserts if there was nothing.
    ReadThenInsert,
    /// Leases are written and read by the proxies' clocks.
    LocalClock,
    /// A settlement names the record and not its owner.
    SettleWithoutToken,
    /// An owner sends however late it is.
    NoDeadline,
    /// A lapsed lease means free, as in a lock.
    LapsedIsFree,
}

#[derive(Debug, Clone)]
struct Protocol {
    broken: Option<Broken>,
    requests: u8,
    /// How often the network loses an answer or delays a statement, or the clock jumps.
    faults: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    now: i8,
    /// What the database's clock shows beyond the true time.
    jumped: i8,
    /// How often the network may lose or delay something yet.
    faults: u8,
    row: Option<Stored>,
    requests: Vec<Phase>,
    network: BTreeSet<Message>,
    /// The epoch of each forward that was not provably unsent and not reported unexecuted.
    forwards: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Stored {
    owner: u8,
    epoch: u32,
    state: StoredState,
    claimed_at: i8,
    lease_until: i8,
    settled_at: Option<i8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    Claiming { started: i8 },
    Owning { started: i8, epoch: u32 },
    Settling { epoch: u32, what: Ending },
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Ending {
    Completed,
    Unknown,
    Released,
}

/// A statement on its way to the database. Nobody waits any longer for one that is not `awaited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Message {
    Claim {
        by: u8,
        awaited: bool,
    },
    /// The second half of a claim that found a row: it names the epoch that it read (0 for no row).
    TakeOver {
        by: u8,
        awaited: bool,
        read: u32,
    },
    Settle {
        by: u8,
        epoch: u32,
        what: Ending,
    },
}

/// What an upstream makes of a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Upstream {
    Answers,
    /// It executes, and the answer is lost.
    GoesSilent,
    /// It says that it did not execute, or could not be reached.
    DoesNot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    Start(u8),
    Deliver {
        message: Message,
        answered: bool,
    },
    /// The claim's answer did not come: send it again, with the same token.
    Repeat(u8),
    Forward(u8, Upstream),
    /// Past half the deadline: send nothing, release.
    TooLate(u8),
    Settle {
        by: u8,
        answered: bool,
    },
    /// The settlement is stuck in the network, and is sent again later.
    SettleLate(u8),
    Tick,
    Jump(i8),
    OperatorFrees,
}

impl Protocol {
    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// The clock by which `by` writes and reads leases.
    fn clock(&self, state: &State, by: u8) -> i8 {
        if self.is(Broken::LocalClock) {
            return state.now + WALL_CLOCKS[usize::from(by % 2)];
        }
        state.now + state.jumped
    }

    fn may_start(&self, state: &State, started: i8) -> bool {
        self.is(Broken::NoDeadline) || state.now < started + START_BY
    }

    fn row(&self, stored: &Stored, now: i8) -> Row {
        let lapsed_is_free = self.is(Broken::LapsedIsFree);
        Row {
            token: token(stored.owner),
            epoch: Epoch::new(stored.epoch),
            state: match stored.state {
                StoredState::InFlight if lapsed_is_free && stored.lease_until <= now => {
                    StoredState::Free
                }
                state => state,
            },
            fingerprint: Fingerprint::from_bytes([0; 32]),
            credential: CredentialHash::from_bytes([0; 32]),
            lease_remaining: units(stored.lease_until - now),
            rest: Rest::Over,
            expired: false,
        }
    }

    /// A claim reaches the database: inserts, or reads what is there.
    fn claim(&self, state: &mut State, by: u8, awaited: bool, answered: bool) {
        let now = self.clock(state, by);
        let Some(stored) = &state.row else {
            if self.is(Broken::ReadThenInsert) {
                state.network.insert(Message::TakeOver {
                    by,
                    awaited,
                    read: 0,
                });
            } else {
                state.row = Some(Stored::claimed(by, 1, now));
                acquired(state, by, 1, awaited && answered);
            }
            return;
        };
        match decide_claim(&self.row(stored, now), &claim(by)) {
            ClaimDecision::Own(epoch) => acquired(state, by, epoch.get(), awaited && answered),
            ClaimDecision::TakeOver { read } => {
                let read = read.get();
                state
                    .network
                    .insert(Message::TakeOver { by, awaited, read });
            }
            ClaimDecision::BeginRest { .. }
            | ClaimDecision::InFlight
            | ClaimDecision::Completed
            | ClaimDecision::Unknown => {
                if awaited && answered {
                    state.requests[usize::from(by)] = Phase::Ended;
                }
            }
        }
    }

    fn take_over(&self, state: &mut State, message: Message, answered: bool) {
        let Message::TakeOver { by, awaited, read } = message else {
            return;
        };
        let found = state.row.as_ref().map_or(0, |row| row.epoch);
        let blind = self.is(Broken::NoEpoch) || self.is(Broken::ReadThenInsert);
        if found != read && !blind {
            state.network.insert(Message::Claim { by, awaited });
            return;
        }
        let epoch = read + 1;
        state.row = Some(Stored::claimed(by, epoch, self.clock(state, by)));
        acquired(state, by, epoch, awaited && answered);
    }

    fn settle(&self, state: &mut State, by: u8, epoch: u32, what: Ending) {
        let now = self.clock(state, by);
        let row = state.row.as_ref().map(|stored| self.row(stored, now));
        let (mut token, mut named) = (token(by), Epoch::new(epoch));
        if let (true, Some(row)) = (self.is(Broken::SettleWithoutToken), &row) {
            (token, named) = (row.token, row.epoch);
        }
        let decision = decide_settle(row.as_ref(), token, named, &what.into());
        let stored = match (decision, &mut state.row) {
            (SettleDecision::Apply, Some(stored)) => stored,
            (SettleDecision::Insert, row) => row.insert(Stored::claimed(by, epoch, now)),
            _ => return,
        };
        stored.state = what.into();
        stored.settled_at = Some(now);
    }

    fn operator_may_free(&self, state: &State) -> bool {
        // The operator works where the second proxy does, and does not err about the upstream.
        let now = self.clock(state, 1);
        let Some(stored) = state.row.as_ref().filter(|_| state.forwards.is_empty()) else {
            return false;
        };
        let summary = Summary {
            id: RecordId::from_bytes([0; 16]),
            state: self.row(stored, now).state_now(),
            epoch: Epoch::new(stored.epoch),
            claimed_at: at(stored.claimed_at),
            lease_until: at(stored.lease_until),
            settled_at: stored.settled_at.map(at),
            expires_at: at(i8::MAX),
        };
        summary.state == StoredState::Unknown
            && refuse(&summary, at(now), &Resolution::NotExecuted, false).is_none()
    }

    /// What a request may do by itself.
    fn steps(&self, state: &State, by: u8, actions: &mut Vec<Action>) {
        match state.requests[usize::from(by)] {
            // Requests are alike: they start in the order of their numbers.
            Phase::Idle if state.now < CLAIMS_END && state.may_be_next(by) => {
                actions.push(Action::Start(by));
            }
            Phase::Claiming { .. } if state.now < CLAIMS_END => actions.push(Action::Repeat(by)),
            Phase::Owning { started, .. } if self.may_start(state, started) => {
                for upstream in [Upstream::Answers, Upstream::GoesSilent, Upstream::DoesNot] {
                    actions.push(Action::Forward(by, upstream));
                }
            }
            Phase::Owning { .. } => actions.push(Action::TooLate(by)),
            Phase::Settling { epoch, what } => {
                actions.push(Action::Settle { by, answered: true });
                actions.push(Action::Settle {
                    by,
                    answered: false,
                });
                if !state.network.contains(&Message::Settle { by, epoch, what }) {
                    actions.push(Action::SettleLate(by));
                }
            }
            Phase::Idle | Phase::Claiming { .. } | Phase::Ended => {}
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            now: 0,
            jumped: 0,
            faults: self.faults,
            row: None,
            requests: vec![Phase::Idle; self.requests.into()],
            network: BTreeSet::new(),
            forwards: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for by in 0..self.requests {
            self.steps(state, by, actions);
        }
        for message in state.network.iter().copied() {
            let awaited = message.awaited();
            if message.is_claim() && state.now >= CLAIMS_END {
                continue;
            }
            actions.push(Action::Deliver {
                message,
                answered: false,
            });
            if awaited {
                actions.push(Action::Deliver {
                    message,
                    answered: true,
                });
            }
        }
        if state.now < HORIZON {
            actions.push(Action::Tick);
        }
        if state.jumped == 0 && state.row.is_some() {
            actions.extend([Action::Jump(JUMP), Action::Jump(-JUMP)]);
        }
        if self.operator_may_free(state) {
            actions.push(Action::OperatorFrees);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        state.faults = state.faults.checked_sub(faults(last, action))?;
        match action {
            Action::Start(by) => {
                state.requests[usize::from(by)] = Phase::Claiming { started: state.now };
                state.network.insert(Message::Claim { by, awaited: true });
            }
            Action::Repeat(by) => repeat(&mut state, by),
            Action::Deliver { message, answered } => {
                state.network.remove(&message);
                match message {
                    Message::Claim { by, awaited } => self.claim(&mut state, by, awaited, answered),
                    Message::TakeOver { .. } => self.take_over(&mut state, message, answered),
                    Message::Settle { by, epoch, what } => self.settle(&mut state, by, epoch, what),
                }
            }
            Action::Forward(by, upstream) => forward(&mut state, by, upstream),
            Action::TooLate(by) => end_as(&mut state, by, Ending::Released),
            Action::Settle { by, answered } => {
                let (epoch, what) = state.settling(by)?;
                self.settle(&mut state, by, epoch, what);
                if answered {
                    state.requests[usize::from(by)] = Phase::Ended;
                }
            }
            Action::SettleLate(by) => {
                let (epoch, what) = state.settling(by)?;
                state.network.insert(Message::Settle { by, epoch, what });
            }
            Action::Tick if state.now == CLAIMS_END => state.now = HORIZON,
            Action::Tick => state.now += 1,
            Action::Jump(by) => state.jumped = by,
            Action::OperatorFrees => {
                let stored = state.row.as_mut()?;
                stored.epoch += 1;
                stored.state = StoredState::Free;
            }
        }
        state.forget_times();
        // A step that changes nothing is none.
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("at most one forward", |_: &Self, state: &State| {
                state.forwards.len() <= 1
            }),
            Property::always("completed means executed", |_: &Self, state: &State| {
                let completed = |row: &Stored| row.state == StoredState::Completed;
                !state.row.as_ref().is_some_and(completed) || !state.forwards.is_empty()
            }),
            Property::always(
                "nothing stays in flight",
                |protocol: &Self, state: &State| {
                    let now = state.now + state.jumped;
                    let row = state.row.as_ref().map(|stored| protocol.row(stored, now));
                    let in_flight = row.is_some_and(|row| row.state_now() == StoredState::InFlight);
                    state.now < HORIZON || !in_flight
                },
            ),
            Property::sometimes("an answer is recorded", |_: &Self, state: &State| {
                let completed = |row: &Stored| row.state == StoredState::Completed;
                state.row.as_ref().is_some_and(completed)
            }),
            Property::sometimes("a third owner executes", |_: &Self, state: &State| {
                state.forwards == [3]
            }),
            Property::sometimes(
                "an operator frees a key, and it is used",
                |_: &Self, state: &State| {
                    let row = state.row.as_ref();
                    row.is_some_and(|row| row.epoch == 3 && row.owner == 1) && state.forwards == [3]
                },
            ),
        ]
    }
}

impl State {
    /// Forgets times that decide nothing any longer, so that states which differ in them are one.
    fn forget_times(&mut self) {
        let now = self.now;
        for request in &mut self.requests {
            if let Phase::Claiming { started } | Phase::Owning { started, .. } = request
                && now >= *started + START_BY
            {
                *started = LONG_AGO;
            }
        }
        if let Some(stored) = &mut self.row
            && matches!(stored.state, StoredState::Free | StoredState::Completed)
        {
            (stored.claimed_at, stored.lease_until, stored.settled_at) = (0, 0, None);
        }
    }

    fn may_be_next(&self, by: u8) -> bool {
        let before = by
            .checked_sub(1)
            .map(|before| self.requests[usize::from(before)]);
        before.is_none_or(|before| before != Phase::Idle)
    }

    fn settling(&self, by: u8) -> Option<(u32, Ending)> {
        match self.requests[usize::from(by)] {
            Phase::Settling { epoch, what } => Some((epoch, what)),
            _ => None,
        }
    }
}

impl Stored {
    fn claimed(owner: u8, epoch: u32, now: i8) -> Self {
        Self {
            owner,
            epoch,
            state: StoredState::InFlight,
            claimed_at: now,
            lease_until: now + LEASE,
            settled_at: None,
        }
    }
}

impl Message {
    fn is_claim(self) -> bool {
        !matches!(self, Self::Settle { .. })
    }

    fn is_from(self, request: u8) -> bool {
        let (Self::Claim { by, .. } | Self::TakeOver { by, .. } | Self::Settle { by, .. }) = self;
        by == request
    }

    fn awaited(self) -> bool {
        match self {
            Self::Claim { awaited, .. } | Self::TakeOver { awaited, .. } => awaited,
            Self::Settle { .. } => false,
        }
    }

    /// The same statement of `by`, when nobody waits for it any longer.
    fn forgotten(self, request: u8) -> Self {
        match self {
            Self::Claim { by, .. } if by == request => Self::Claim { by, awaited: false },
            Self::TakeOver { by, read, .. } if by == request => Self::TakeOver {
                by,
                read,
                awaited: false,
            },
            other => other,
        }
    }
}

impl From<Ending> for Settlement {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Completed => Self::Completed("answer".into()),
            Ending::Unknown => Self::Unknown,
            Ending::Released => Self::Released,
        }
    }
}

impl From<Ending> for StoredState {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Completed => Self::Completed,
            Ending::Unknown => Self::Unknown,
            Ending::Released => Self::Free,
        }
    }
}

/// How many faults of the network an action takes.
fn faults(state: &State, action: Action) -> u8 {
    let lost = match action {
        Action::Deliver { message, answered } => message.awaited() && !answered,
        Action::Repeat(by) => state.network.iter().any(|m| m.awaited() && m.is_from(by)),
        Action::Settle { answered, .. } => !answered,
        Action::SettleLate(_) | Action::Jump(_) => true,
        _ => false,
    };
    u8::from(lost)
}

fn acquired(state: &mut State, by: u8, epoch: u32, heard: bool) {
    let request = &mut state.requests[usize::from(by)];
    if let (true, Phase::Claiming { started, .. }) = (heard, *request) {
        *request = Phase::Owning { started, epoch };
    }
}

fn repeat(state: &mut State, by: u8) {
    forget_messages(state, by);
    state.network.insert(Message::Claim { by, awaited: true });
}

fn forward(state: &mut State, by: u8, upstream: Upstream) {
    let Phase::Owning { epoch, .. } = state.requests[usize::from(by)] else {
        return;
    };
    let ending = match upstream {
        Upstream::Answers => Ending::Completed,
        Upstream::GoesSilent => Ending::Unknown,
        Upstream::DoesNot => Ending::Released,
    };
    if upstream != Upstream::DoesNot {
        state.forwards.push(epoch);
    }
    end_as(state, by, ending);
}

fn end_as(state: &mut State, by: u8, what: Ending) {
    let request = &mut state.requests[usize::from(by)];
    if let Phase::Owning { epoch, .. } = *request {
        *request = Phase::Settling { epoch, what };
    }
}

fn forget_messages(state: &mut State, by: u8) {
    let network = std::mem::take(&mut state.network);
    state.network = network
        .into_iter()
        .map(|message| message.forgotten(by))
        .collect();
}

fn token(owner: u8) -> Token {
    Token::from_bytes([owner; 16])
}

fn claim(by: u8) -> Claim {
    Claim {
        id: RecordId::from_bytes([0; 16]),
        token: token(by),
        fingerprint: Fingerprint::from_bytes([0; 32]),
        credential: CredentialHash::from_bytes([0; 32]),
        lease: units(LEASE),
        retention: units(i8::MAX),
        on_unknown: OnUnknown::Hold,
        asked_at: tokio::time::Instant::now(),
    }
}

fn units(count: i8) -> Duration {
    UNIT * u32::try_from(count).unwrap_or(0)
}

fn at(units: i8) -> Timestamp {
    let unit = i64::try_from(UNIT.as_micros()).expect("five seconds fit");
    Timestamp::from_micros(i64::from(units) * unit)
}

fn check(protocol: Protocol) -> impl Checker<Protocol> {
    let first_failure = HasDiscoveries::AnyFailures;
    let checker = protocol.checker().threads(2).finish_when(first_failure);
    checker.spawn_bfs().join()
}

#[test]
fn the_protocol_holds_in_every_interleaving() {
    for (requests, faults) in [(2, 2), (3, 1)] {
        let checker = check(Protocol {
            broken: None,
            requests,
            faults,
        });
        let states = checker.unique_state_count();
        println!("{requests} requests, {faults} faults: {states} states");
        checker.assert_properties();
    }
}

#[test]
fn each_broken_variant_is_caught() {
    for broken in [
        Broken::NoEpoch,
        Broken::ReadThenInsert,
        Broken::LocalClock,
        Broken::SettleWithoutToken,
        Broken::NoDeadline,
        Broken::LapsedIsFree,
    ] {
        let checker = check(Protocol {
            broken: Some(broken),
            requests: 3,
            faults: 1,
        });
        let path = checker.discovery("at most one forward");
        let path = path.unwrap_or_else(|| panic!("{broken:?} is not caught"));
        println!("{broken:?}: {:?}", path.into_actions());
    }
}
