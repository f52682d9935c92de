//! What can happen, and how likely it is tried.

use onlyonce::store::OnUnknown;
use proptest::prelude::*;

/// How many records a history is about: few, so that steps meet.
pub(super) const IDS: usize = 2;

/// One of a few requests, each with its own token. Between them they differ in all that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Who(u8);

impl Who {
    pub(super) const COUNT: usize = 4;

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(super) fn fingerprint(self) -> u8 {
        1 + self.0 % 2
    }

    pub(super) fn credential(self) -> u8 {
        10 + self.0
    }

    /// In seconds, and between whole hundreds.
    pub(super) fn lease(self) -> u64 {
        if self.0.is_multiple_of(2) { 250 } else { 450 }
    }

    /// In seconds, and between whole hundreds.
    pub(super) fn retention(self) -> u64 {
        if self.0 < 2 { 1050 } else { 2050 }
    }

    pub(super) fn on_unknown(self) -> OnUnknown {
        if self.0 < 2 {
            OnUnknown::Hold
        } else {
            OnUnknown::Reexecute
        }
    }
}

/// How an owner ends its claim; a completion with a byte to tell responses apart.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict {
    Completed(u8),
    Unknown,
    Released,
}

/// What an operator decides.
#[derive(Debug, Clone, Copy)]
pub(super) enum Decision {
    Executed(u8),
    NotExecuted,
    Forget,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Claim {
        id: usize,
        who: Who,
    },
    Settle {
        id: usize,
        who: Who,
        /// `None` is the epoch that was granted last; a number is anybody's guess.
        epoch: Option<u32>,
        verdict: Verdict,
    },
    Resolve {
        id: usize,
        decision: Decision,
        force: bool,
    },
    /// In hundreds of seconds.
    Advance(u8),
    Sweep,
}

/// Any step.
pub(super) fn any_step() -> BoxedStrategy<Step> {
    let id = || 0..IDS;
    let who = || (0..4u8).prop_map(Who);
    let epoch = prop_oneof![4 => Just(None), 1 => (1..6u32).prop_map(Some)];
    let verdict = prop_oneof![
        2 => any::<u8>().prop_map(Verdict::Completed),
        1 => Just(Verdict::Unknown),
        1 => Just(Verdict::Released),
    ];
    let decision = prop_oneof![
        any::<u8>().prop_map(Decision::Executed),
        Just(Decision::NotExecuted),
        Just(Decision::Forget),
    ];
    prop_oneof![
        6 => (id(), who()).prop_map(|(id, who)| Step::Claim { id, who }),
        6 => (id(), who(), epoch, verdict)
            .prop_map(|(id, who, epoch, verdict)| Step::Settle { id, who, epoch, verdict }),
        3 => (id(), decision, any::<bool>())
            .prop_map(|(id, decision, force)| Step::Resolve { id, decision, force }),
        3 => prop_oneof![Just(1), Just(3), Just(10)].prop_map(Step::Advance),
        1 => Just(Step::Sweep),
    ]
    .boxed()
}
