//! Any history of claims, settlements, decisions and time, compared with a plain model.
//!
//! The named cases hold the histories that somebody thought of; this one looks for the others. The
//! reference is written down anew from the contract, and does not use `onlyonce::store::decision`: a fault
//! in there would otherwise agree with itself.
//!
//! The times of the model are whole hundreds of seconds and those of leases, retentions and deadlines lie
//! between them, so that a store on a real clock, which moves a little by itself, agrees too.

mod reference;
mod steps;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce::store::operator::{Filter, Resolution, Resolved, Summary};
use onlyonce::store::{
    Claim, Claimed, Operator, Present, Settled, Settlement, Store, StoreError, Sweep,
};
use onlyonce::{CredentialHash, Epoch, Fingerprint, RecordId, Token};
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use proptest::{prop_assert, prop_assert_eq};
use proptest_state_machine::ReferenceStateMachine;

use self::reference::{Answer, Model};
use self::steps::{IDS, Step, Verdict, Who};
use super::Fixture;

const STEPS_MAX: usize = 40;
const CASES: u32 = 48;

/// Runs random histories on a store and on the model until they differ; panics with the shortest such
/// history.
///
/// `PROPTEST_CASES` sets how many. All of them share one fixture and use ids of their own.
///
/// # Panics
/// Where the store and the model disagree.
pub fn check<F, Made>(constructor: impl FnOnce() -> Made)
where
    F: Fixture,
    Made: Future<Output = F>,
{
    let runtime = super::runtime();
    let fixture = runtime.block_on(constructor());
    let histories = AtomicU64::new(0);
    let mut config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    let strategy = Model::sequential_strategy(1..STEPS_MAX);
    let outcome = TestRunner::new(config).run(&strategy, |(model, steps, seen)| {
        let history = History {
            fixture: &fixture,
            number: histories.fetch_add(1, Ordering::Relaxed),
        };
        let run = history.run(model, steps, || {
            if let Some(seen) = &seen {
                seen.fetch_add(1, Ordering::SeqCst);
            }
        });
        runtime.block_on(run)
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, (_, steps, _))) => {
            panic!("the store and the model disagree: {reason}\nafter {steps:#?}")
        }
        Err(abort) => panic!("{abort}"),
    }
}

/// One history on ids of its own.
struct History<'a, F> {
    fixture: &'a F,
    number: u64,
}

impl<F: Fixture> History<'_, F> {
    async fn run(
        &self,
        mut model: Model,
        steps: Vec<Step>,
        mut before_each: impl FnMut(),
    ) -> Result<(), TestCaseError> {
        for (place, step) in steps.into_iter().enumerate() {
            before_each();
            model = Model::apply(model, &step);
            // Either handle must do.
            let store = if place % 2 == 0 {
                self.fixture.store()
            } else {
                self.fixture.second()
            };
            let answer = self.take(store, &model, &step).await.map_err(fail)?;
            match (&answer, &model.answer) {
                // Older histories have left records that expire as well.
                (Answer::Swept(found), Answer::Swept(own)) => prop_assert!(found >= own),
                (answer, expected) => prop_assert_eq!(answer, expected, "at step {}", place),
            }
            self.compare(&model).await?;
        }
        Ok(())
    }

    /// Does on the store what the model did.
    async fn take(
        &self,
        store: &F::Store,
        model: &Model,
        step: &Step,
    ) -> Result<Answer, StoreError> {
        Ok(match step {
            Step::Claim { id, who } => match store.claim(&self.claim(*id, *who)).await? {
                Claimed::Acquired(epoch) => Answer::Acquired(epoch.get()),
                Claimed::Present(present) => seen(Some(present)),
            },
            Step::Settle {
                id, who, verdict, ..
            } => {
                let epoch = Epoch::new(model.settled_epoch);
                let settlement = match verdict {
                    Verdict::Completed(byte) => Settlement::Completed(vec![*byte; 3].into()),
                    Verdict::Unknown => Settlement::Unknown,
                    Verdict::Released => Settlement::Released,
                };
                match store
                    .settle(&self.claim(*id, *who), epoch, &settlement)
                    .await?
                {
                    Settled::Done => Answer::Done,
                    Settled::Stale => Answer::Stale,
                }
            }
            Step::Resolve {
                id,
                decision,
                force,
            } => {
                let resolution = match decision {
                    steps::Decision::Executed(byte) => Resolution::Executed(vec![*byte; 3].into()),
                    steps::Decision::NotExecuted => Resolution::NotExecuted,
                    steps::Decision::Forget => Resolution::Forget,
                };
                match store.resolve(&self.id(*id), &resolution, *force).await? {
                    Resolved::Done(epoch) => Answer::Acquired(epoch.get()),
                    Resolved::NotFound => Answer::Nothing,
                    Resolved::Refused(refused) => Answer::Refused(refused),
                }
            }
            Step::Advance(hundreds) => {
                let by = Duration::from_secs(100 * u64::from(*hundreds));
                self.fixture.advance(by).await;
                Answer::Done
            }
            Step::Sweep => Answer::Swept(store.sweep(10_000).await?),
        })
    }

    /// Everything that can be seen of the records must agree as well.
    async fn compare(&self, model: &Model) -> Result<(), TestCaseError> {
        let all = Filter {
            state: None,
            limit: u32::MAX,
        };
        let listed = self.fixture.second().list(&all).await.map_err(fail)?;
        let newest_first = |pair: &[Summary]| pair[0].claimed_at >= pair[1].claimed_at;
        prop_assert!(
            listed.windows(2).all(newest_first),
            "not newest first: {listed:?}"
        );
        for id in 0..IDS {
            let record = self.id(id);
            let found = self.fixture.store().find(&record).await.map_err(fail)?;
            prop_assert_eq!(seen(found), model.seen(id), "find {}", id);
            let detail = self.fixture.store().show(&record).await.map_err(fail)?;
            let shown = detail
                .as_ref()
                .map(|d| (d.summary.state, d.summary.epoch.get()));
            prop_assert_eq!(shown, model.shown(id), "show {}", id);
            let response = detail.as_ref().and_then(|d| d.response.as_deref());
            let expected = model.response(id);
            prop_assert_eq!(response, expected.as_deref(), "response {}", id);
            let listed = listed.iter().find(|summary| summary.id == record);
            prop_assert_eq!(listed, detail.as_ref().map(|d| &d.summary), "list {}", id);
        }
        Ok(())
    }

    fn id(&self, id: usize) -> RecordId {
        RecordId::from_bytes(self.bytes(id, usize::MAX))
    }

    fn claim(&self, id: usize, who: Who) -> Claim {
        Claim {
            id: self.id(id),
            token: Token::from_bytes(self.bytes(id, who.index())),
            fingerprint: Fingerprint::from_bytes([who.fingerprint(); 32]),
            credential: CredentialHash::from_bytes([who.credential(); 32]),
            lease: Duration::from_secs(who.lease()),
            retention: Duration::from_secs(who.retention()),
            on_unknown: who.on_unknown(),
            asked_at: tokio::time::Instant::now(),
        }
    }

    fn bytes(&self, id: usize, role: usize) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8] = u8::try_from(id).expect("there are few ids");
        bytes[9] = u8::try_from(role).unwrap_or(u8::MAX);
        bytes
    }
}

/// What stands in the way, without the times.
fn seen(present: Option<Present>) -> Answer {
    match present {
        None => Answer::Nothing,
        Some(Present::InFlight { .. }) => Answer::InFlight,
        Some(Present::Completed(completed)) => Answer::Completed {
            fingerprint: completed.fingerprint.as_bytes()[0],
            credential: completed.credential.as_bytes()[0],
            response: completed.response.map(|bytes| bytes.to_vec()),
        },
        Some(Present::Unknown {
            fingerprint,
            credential,
        }) => Answer::Unknown {
            fingerprint: fingerprint.as_bytes()[0],
            credential: credential.as_bytes()[0],
        },
    }
}

fn fail(error: StoreError) -> TestCaseError {
    TestCaseError::fail(format!("{error}: {error:?}"))
}
