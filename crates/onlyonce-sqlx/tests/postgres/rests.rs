//! The rest of a key that an operator freed: it begins when the decision shows, whoever sees that.

use std::time::Duration;

use onlyonce::Epoch;
use onlyonce::store::operator::{FREED_REST, Operator, Resolution};
use onlyonce::store::{Cacheable, Claimed, Present, Store};
use onlyonce_sqlx::postgres::transaction::{self, Statements, Taking};
use onlyonce_test::conformance::Fixture;
use onlyonce_test::conformance::sample::{acquired, claim, completed, present, rival};
use onlyonce_test::event::within;
use sqlx::Connection;

use crate::fixture::{Postgres, run, value};

/// Longer than any fixed time that a decision could be written with.
const LONG: Duration = Duration::from_secs(600);

/// A decision by somebody who is gone before its commit shows, which takes long: until then nobody can know of it,
/// and afterwards old answers are shown for two seconds more.
async fn decided_late(f: &Postgres) {
    let owner = claim(1);
    let epoch = acquired(f.store.claim(&owner).await);
    let settled = f.store.settle(&owner, epoch, &completed("answer")).await;
    settled.unwrap();
    // At the end of its transaction, where no time-out of a statement counts any more.
    f.run(
        "create table held (); insert into held default values; \
         create function hold() returns trigger language plpgsql as $$ begin \
         while exists (select from held) loop perform pg_sleep(0.01); end loop; return null; end $$; \
         create constraint trigger hold after update on onlyonce_generation \
         deferrable initially deferred for each row execute function hold()",
    )
    .await;
    let before = f.store.confirm().await.unwrap().generation;
    let hasty = f.another(|settings| settings.with_call_timeout(Duration::from_millis(200)));
    let error = hasty.resolve(&owner.id, &Resolution::Forget, false).await;
    assert!(error.unwrap_err().may_have_applied());

    f.advance(LONG).await;
    assert_eq!(f.store.confirm().await.unwrap().generation, before);
    let shown = present(f.store.claim(&rival(&owner)).await);
    assert!(matches!(shown, Present::Completed(_)), "{shown:?}");
    f.run("delete from held").await;
    within("the decision shows", async {
        while f.store.confirm().await.unwrap().generation == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

fn rests(shown: &Present) -> bool {
    matches!(shown, Present::InFlight { lease_remaining } if *lease_remaining <= FREED_REST)
}

#[tokio::test]
async fn whoever_first_sees_a_late_decision_begins_its_rest() {
    for f in [Postgres::fresh().await, Postgres::behind_pgbouncer().await] {
        decided_late(&f).await;
        let found = f.second.find(&claim(1).id).await.unwrap();
        assert!(found.is_some_and(|found| rests(&found)));
        let next = rival(&claim(1));
        for _ in 0..2 {
            let shown = present(f.second.claim(&next).await);
            assert!(rests(&shown), "{shown:?}");
            f.advance(FREED_REST / 2).await;
        }
        assert_eq!(acquired(f.store.claim(&next).await), Epoch::new(3));
    }
}

/// Also where the first is a transaction that is rolled back, since the record is not to be had.
#[tokio::test]
async fn a_transaction_that_sees_a_late_decision_begins_its_rest() {
    let f = Postgres::fresh().await;
    decided_late(&f).await;
    let mut connection = f.database.connect().await;
    let mut tx = connection.begin().await.unwrap();
    let taking = transaction::claim(&mut tx, Statements::Prepared, &rival(&claim(1))).await;
    let Taking::Present(shown) = taking.unwrap() else {
        panic!("it rests");
    };
    assert!(rests(&shown), "{shown:?}");
    run(&mut tx, "create table undone ()").await;
    tx.rollback().await.unwrap();
    let admin = &mut *f.admin.lock().await;
    assert!(value::<bool>(admin, "select to_regclass('undone') is null").await);

    run(admin, "update clock.moved set by = by + interval '3 s'").await;
    let claimed = f.store.claim(&rival(&claim(1))).await;
    assert_eq!(claimed.unwrap(), Claimed::Acquired(Epoch::new(3)));
}
