//! One suite for every store: the contract of [`onlyonce::store`], case by case.
//!
//! A store mounts it with [`store_conformance!`](crate::store_conformance) and a [`Fixture`]; each case
//! becomes a test of its own name. Unlike tests written beside a store, the cases know nothing of how it
//! works: they see two handles to one storage, and a way to let time pass.
//!
//! Hazard: a case that needs what a fixture cannot do ([`Fixture::lose_response`], [`Fixture::fill`])
//! says so on standard error and passes. A fixture for a store with a disk should be able to do both.
//!
//! ```
//! use std::time::Duration;
//! use onlyonce::clock::ManualClock;
//! use onlyonce::store::MemoryStore;
//! use onlyonce_test::conformance::{self, Fixture};
//!
//! struct Memory(MemoryStore, ManualClock);
//!
//! impl Fixture for Memory {
//!     type Store = MemoryStore;
//!     fn store(&self) -> &MemoryStore { &self.0 }
//!     fn second(&self) -> &MemoryStore { &self.0 }
//!     async fn advance(&self, by: Duration) { self.1.advance(by) }
//! }
//!
//! async fn memory() -> Memory {
//!     let clock = ManualClock::default();
//!     Memory(MemoryStore::new(1000, 8 << 20, clock.clone()), clock)
//! }
//!
//! // In a test: `onlyonce_test::store_conformance!(memory);` mounts all of them. One by hand:
//! conformance::run(memory, conformance::claims::a_new_id_is_acquired_in_the_first_epoch);
//! ```

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use onlyonce::RecordId;
use onlyonce::store::{Cacheable, Operator, Store, Sweep};

pub mod claims;
pub mod generations;
pub mod model;
pub mod operators;
pub mod races;
pub mod sample;
pub mod settlements;
pub mod upkeep;

/// How long a case may take before it counts as hung.
const CASE_MAX: Duration = Duration::from_secs(60);

/// A storage of its own for one case, empty at first.
pub trait Fixture: Send + Sync + 'static {
    /// The store under test.
    type Store: Store + Operator + Sweep + Cacheable;

    /// A handle to the storage.
    fn store(&self) -> &Self::Store;

    /// Another handle to the same storage, that shares as little with the first as it can: its own
    /// connections, as a second process would have.
    fn second(&self) -> &Self::Store;

    /// Makes this much time pass for the records. It must not wait: cases let days pass.
    ///
    /// Where the clock is injected, move it. Where it is a database's, move every time that is stored in
    /// the rows into the past by as much.
    fn advance(&self, by: Duration) -> impl Future<Output = ()> + Send;

    /// Deletes the response of a completed record and leaves its claim, as a failover or a clumsy
    /// operator might. `false` where the store keeps both in one place.
    fn lose_response(&self, id: &RecordId) -> impl Future<Output = bool> + Send {
        let _ = id;
        async { false }
    }

    /// Makes the store refuse new records for lack of room. `false` where that cannot be done.
    fn fill(&self) -> impl Future<Output = bool> + Send {
        async { false }
    }
}

/// Runs one case on a new fixture, in a runtime of several threads.
///
/// # Panics
/// Where the case fails or does not end within a minute.
pub fn run<F, Made, Ran>(constructor: impl FnOnce() -> Made, case: impl FnOnce(Arc<F>) -> Ran)
where
    F: Fixture,
    Made: Future<Output = F>,
    Ran: Future<Output = ()>,
{
    runtime().block_on(async {
        let case = async { case(Arc::new(constructor().await)).await };
        tokio::time::timeout(CASE_MAX, case)
            .await
            .expect("the case ends within a minute");
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime can be built")
}

/// Says that a case does not apply to a store.
fn not_applicable(why: impl fmt::Display) {
    eprintln!("not applicable: {why}");
}

/// Mounts the conformance suite, and the [model](model), on a store.
///
/// The argument is the path of an `async fn() -> impl Fixture` in scope; each case becomes a `#[test]`.
/// Give every store a module of its own, so that a store's tests can be chosen by name.
#[macro_export]
macro_rules! store_conformance {
    ($constructor:path) => {
        $crate::store_conformance! { @mount $constructor;
            claims::a_new_id_is_acquired_in_the_first_epoch,
            claims::different_ids_are_independent,
            claims::a_record_in_flight_stands_in_the_way_of_every_fingerprint,
            claims::a_repeated_claim_is_acquired_again_in_the_same_epoch,
            claims::a_repeated_claim_is_its_own_even_after_its_lease,
            claims::a_repeated_claim_does_not_extend_its_lease,
            claims::a_completed_record_is_shown_with_who_made_it,
            claims::an_owner_sees_its_own_completed_record_rather_than_acquiring_it,
            claims::a_free_record_is_taken_over_in_a_higher_epoch,
            claims::a_free_record_is_taken_over_by_another_fingerprint,
            claims::a_lapsed_lease_means_unknown,
            claims::an_unknown_record_is_held,
            claims::an_unknown_record_is_taken_over_by_reexecute,
            claims::reexecute_with_another_fingerprint_is_refused,
            claims::reexecute_does_not_touch_what_is_in_flight_or_completed,
            claims::an_expired_record_is_claimable_before_any_sweep,
            claims::an_expired_unknown_record_is_claimable,
            claims::a_claim_that_arrives_after_its_repeat_was_released_gets_a_later_epoch,
            claims::finding_writes_nothing,
            claims::what_is_recalled_is_what_a_claim_finds,
            claims::a_full_store_refuses_and_changes_nothing,
            races::of_64_claims_through_two_handles_one_is_acquired,
            races::of_64_claims_of_a_free_record_one_is_acquired,
            races::of_64_claims_of_an_expired_record_one_is_acquired,
            races::of_64_reexecutions_of_an_unknown_record_one_is_acquired,
            races::copies_of_one_claim_agree_on_its_epoch,
            races::claims_of_many_ids_are_all_acquired,
            races::a_claim_that_races_a_sweep_is_acquired_once,
            races::a_claim_that_races_a_release_is_acquired_at_most_once,
            races::a_settlement_that_races_an_operator_leaves_one_outcome,
            races::a_late_owner_that_races_a_take_over_leaves_one_outcome,
            races::owners_of_one_record_exclude_each_other,
            races::dropped_claims_leave_the_store_usable,
            races::dropped_settlements_leave_the_store_usable,
            settlements::responses_come_back_byte_for_byte,
            settlements::a_repeated_settlement_changes_nothing,
            settlements::a_completed_record_is_final,
            settlements::a_released_record_is_final,
            settlements::an_unknown_record_may_be_completed_by_its_owner,
            settlements::an_unknown_record_may_be_released_by_its_owner,
            settlements::an_unknown_record_shows_who_asked,
            settlements::a_late_owner_completes_after_its_lease_lapsed,
            settlements::a_stale_owner_cannot_settle_after_a_take_over,
            settlements::a_stale_owner_cannot_settle_after_its_release,
            settlements::a_foreign_token_cannot_settle,
            settlements::a_foreign_epoch_cannot_settle,
            settlements::a_completion_whose_row_is_gone_is_written_anew,
            settlements::an_unknown_outcome_whose_row_is_gone_is_written_anew,
            settlements::a_release_whose_row_is_gone_is_done,
            settlements::a_missing_response_is_completed_without_one,
            settlements::a_settlement_does_not_extend_retention,
            settlements::a_full_store_still_takes_settlements,
            operators::an_empty_store_lists_and_shows_nothing,
            operators::records_are_listed_newest_claim_first,
            operators::lists_keep_to_their_limit,
            operators::lists_derive_unknown_from_the_lease,
            operators::expired_records_are_neither_listed_nor_shown,
            operators::a_record_is_shown_with_its_times_and_response,
            operators::what_is_in_flight_is_refused_without_force,
            operators::what_is_in_flight_is_freed_by_force_and_its_owner_is_stale,
            operators::what_is_recently_unknown_is_refused_without_force,
            operators::a_recently_lapsed_lease_is_refused_without_force,
            operators::an_unknown_record_is_freed,
            operators::an_unknown_record_gets_the_operators_response,
            operators::what_is_not_unknown_has_nothing_to_resolve,
            operators::a_completed_record_is_forgotten_and_executes_again,
            operators::what_is_absent_or_expired_is_not_found,
            operators::epochs_never_go_down,
            generations::a_decision_changes_the_generation_and_nothing_else_does,
            generations::a_decision_that_was_refused_changes_no_generation,
            generations::two_stores_are_of_two_generations,
            generations::a_freed_key_rests_before_it_takes_a_claim,
            generations::a_key_that_its_owner_released_does_not_rest,
            generations::of_64_claims_of_a_rested_record_one_is_acquired,
            generations::an_expired_key_does_not_rest,
            generations::a_completed_record_says_when_it_expires,
            generations::the_confirmed_time_is_the_one_that_records_expire_by,
            upkeep::a_sweep_deletes_what_is_expired_and_nothing_else,
            upkeep::a_sweep_is_bounded,
            upkeep::a_swept_id_starts_again,
            upkeep::a_swept_response_is_not_found_by_the_next_owner,
        }

        #[test]
        fn any_history_agrees_with_the_model() {
            $crate::conformance::model::check($constructor);
        }
    };
    (@mount $constructor:path; $($group:ident::$case:ident),* $(,)?) => {
        $(
            #[test]
            fn $case() {
                $crate::conformance::run($constructor, $crate::conformance::$group::$case);
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_case_is_mounted() {
        let macro_text = include_str!("conformance.rs");
        for (group, text) in [
            ("claims", include_str!("conformance/claims.rs")),
            ("races", include_str!("conformance/races.rs")),
            ("settlements", include_str!("conformance/settlements.rs")),
            ("operators", include_str!("conformance/operators.rs")),
            ("generations", include_str!("conformance/generations.rs")),
            ("upkeep", include_str!("conformance/upkeep.rs")),
        ] {
            let cases = text.lines().filter_map(|line| {
                let name = line.strip_prefix("pub async fn ")?;
                name.split(['<', '(']).next()
            });
            for case in cases {
                let entry = format!(" {group}::{case},");
                assert!(macro_text.contains(&entry), "{entry} is not mounted");
            }
        }
    }
}
