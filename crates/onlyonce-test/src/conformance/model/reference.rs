//! The contract as a table of a few plain records, in seconds.

use onlyonce::StoredState;
use onlyonce::store::OnUnknown;
use onlyonce::store::operator::{FREED_REST, Refused};
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use super::steps::{Decision, IDS, Step, Verdict, Who, any_step};

/// What the model expects of a step, in the terms that all steps share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Acquired(u32),
    InFlight,
    Completed {
        fingerprint: u8,
        credential: u8,
        response: Option<Vec<u8>>,
    },
    Unknown {
        fingerprint: u8,
        credential: u8,
    },
    Done,
    Stale,
    Refused(Refused),
    Swept(u64),
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Free,
    InFlight,
    Completed(u8),
    Unknown,
}

#[derive(Debug, Clone)]
struct Record {
    owner: Who,
    epoch: u32,
    phase: Phase,
    lease_until: u64,
    expires_at: u64,
    settled_at: Option<u64>,
    /// Where it is free: from when on it takes claims.
    claimable_at: u64,
}

/// All records, the time, and what the last step should have answered.
#[derive(Debug, Clone)]
pub(super) struct Model {
    now: u64,
    records: [Option<Record>; IDS],
    granted: [[u32; Who::COUNT]; IDS],
    pub(super) answer: Answer,
    /// The epoch that the last settlement named.
    pub(super) settled_epoch: u32,
}

impl Record {
    fn claimed(owner: Who, epoch: u32, now: u64) -> Self {
        Self {
            owner,
            epoch,
            phase: Phase::InFlight,
            lease_until: now + owner.lease(),
            expires_at: now + owner.retention(),
            settled_at: None,
            claimable_at: 0,
        }
    }

    fn phase_at(&self, now: u64) -> Phase {
        if self.phase == Phase::InFlight && now > self.lease_until {
            Phase::Unknown
        } else {
            self.phase
        }
    }

    fn answer_at(&self, now: u64) -> Answer {
        let (fingerprint, credential) = (self.owner.fingerprint(), self.owner.credential());
        match self.phase_at(now) {
            Phase::Free if now < self.claimable_at => Answer::InFlight,
            Phase::Free => Answer::Nothing,
            Phase::InFlight => Answer::InFlight,
            Phase::Unknown => Answer::Unknown {
                fingerprint,
                credential,
            },
            Phase::Completed(byte) => Answer::Completed {
                fingerprint,
                credential,
                response: Some(vec![byte; 3]),
            },
        }
    }
}

impl Model {
    /// The record of an id, where its retention is not over.
    fn retained(&self, id: usize) -> Option<&Record> {
        self.records[id]
            .as_ref()
            .filter(|record| self.now < record.expires_at)
    }

    /// What `find` answers.
    pub(super) fn seen(&self, id: usize) -> Answer {
        self.retained(id)
            .map_or(Answer::Nothing, |record| record.answer_at(self.now))
    }

    /// What `show` and `list` say of state and epoch.
    pub(super) fn shown(&self, id: usize) -> Option<(StoredState, u32)> {
        let record = self.retained(id)?;
        let state = match record.phase_at(self.now) {
            Phase::Free => StoredState::Free,
            Phase::InFlight => StoredState::InFlight,
            Phase::Completed(_) => StoredState::Completed,
            Phase::Unknown => StoredState::Unknown,
        };
        Some((state, record.epoch))
    }

    /// The response that `show` gives.
    pub(super) fn response(&self, id: usize) -> Option<Vec<u8>> {
        match self.seen(id) {
            Answer::Completed { response, .. } => response,
            _ => None,
        }
    }

    fn claim(&mut self, id: usize, who: Who) -> Answer {
        if let Some(record) = &self.records[id]
            && record.owner == who
            && record.phase == Phase::InFlight
        {
            return Answer::Acquired(record.epoch);
        }
        let blocked = match self.seen(id) {
            Answer::Unknown { fingerprint, .. } => {
                who.on_unknown() == OnUnknown::Hold || fingerprint != who.fingerprint()
            }
            Answer::Nothing => false,
            _ => true,
        };
        if blocked {
            return self.seen(id);
        }
        let epoch = 1 + self.records[id].as_ref().map_or(0, |record| record.epoch);
        self.records[id] = Some(Record::claimed(who, epoch, self.now));
        self.granted[id][who.index()] = epoch;
        Answer::Acquired(epoch)
    }

    fn settle(&mut self, id: usize, who: Who, epoch: u32, verdict: Verdict) -> Answer {
        let now = self.now;
        let phase = match verdict {
            Verdict::Completed(byte) => Phase::Completed(byte),
            Verdict::Unknown => Phase::Unknown,
            Verdict::Released => Phase::Free,
        };
        let record = match &mut self.records[id] {
            None if phase == Phase::Free => return Answer::Done,
            gone @ None => gone.insert(Record::claimed(who, epoch, now)),
            Some(record) if record.owner != who || record.epoch != epoch => return Answer::Stale,
            Some(record) => record,
        };
        match (record.phase, phase) {
            (Phase::Completed(_), Phase::Completed(_))
            | (Phase::Unknown, Phase::Unknown)
            | (Phase::Free, Phase::Free) => return Answer::Done,
            (Phase::Completed(_) | Phase::Free, _) => return Answer::Stale,
            (Phase::InFlight | Phase::Unknown, _) => {}
        }
        record.phase = phase;
        record.settled_at = Some(now);
        Answer::Done
    }

    fn resolve(&mut self, id: usize, decision: Decision, force: bool) -> Answer {
        let now = self.now;
        let Some(record) = self.records[id]
            .as_mut()
            .filter(|record| now < record.expires_at)
        else {
            return Answer::Nothing;
        };
        let phase = match decision {
            Decision::Executed(byte) => Phase::Completed(byte),
            Decision::NotExecuted | Decision::Forget => Phase::Free,
        };
        let refused = match record.phase_at(now) {
            Phase::InFlight => (!force).then_some(Refused::InFlight),
            Phase::Unknown => {
                let since = record.settled_at.unwrap_or(record.lease_until);
                let recent = now - since < record.owner.lease() - 5;
                (recent && !force).then_some(Refused::RecentlyUnknown)
            }
            Phase::Completed(_) | Phase::Free => {
                (!matches!(decision, Decision::Forget)).then_some(Refused::NotUnknown)
            }
        };
        if let Some(refused) = refused {
            return Answer::Refused(refused);
        }
        record.epoch += 1;
        record.phase = phase;
        record.settled_at = Some(now);
        record.claimable_at = now + FREED_REST.as_secs();
        Answer::Acquired(record.epoch)
    }

    fn sweep(&mut self) -> Answer {
        let mut swept = 0;
        for record in &mut self.records {
            if record
                .take_if(|record| self.now >= record.expires_at)
                .is_some()
            {
                swept += 1;
            }
        }
        Answer::Swept(swept)
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self {
            now: 0,
            records: [const { None }; IDS],
            granted: [[1; Who::COUNT]; IDS],
            answer: Answer::Nothing,
            settled_epoch: 0,
        })
        .boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        any_step()
    }

    fn apply(mut model: Self, step: &Step) -> Self {
        model.answer = match *step {
            Step::Claim { id, who } => model.claim(id, who),
            Step::Settle {
                id,
                who,
                epoch,
                verdict,
            } => {
                model.settled_epoch = epoch.unwrap_or(model.granted[id][who.index()]);
                model.settle(id, who, model.settled_epoch, verdict)
            }
            Step::Resolve {
                id,
                decision,
                force,
            } => model.resolve(id, decision, force),
            Step::Advance(hundreds) => {
                model.now += 100 * u64::from(hundreds);
                Answer::Done
            }
            Step::Sweep => model.sweep(),
        };
        model
    }
}
