//! Group commit: what calls share, and what each keeps for itself.

use std::time::Duration;

use onlyonce::Epoch;
use onlyonce::store::operator::Filter;
use onlyonce::store::{Claim, Claimed, Operator, Present, Settled, Store, StoreErrorKind};
use onlyonce_sqlx::PostgresStore;
use onlyonce_test::conformance::sample::{acquired, claim, completed, present, response, rival};
use onlyonce_test::event::{Gate, within};
use onlyonce_test::fault::{Action, PgFault};
use tokio::task::JoinSet;

use crate::fixture::{Postgres, eventually, run, settings, value, waiting};

fn insertion(sql: &str) -> bool {
    sql.contains("insert into onlyonce_records")
}

fn completion(sql: &str) -> bool {
    sql.contains("set state = 2")
}

fn reading(sql: &str) -> bool {
    sql.starts_with("select token")
}

/// Claims many at the same time, behind a first one that is held: the rest can only be one group.
async fn claimed_behind_a_gate(
    store: &PostgresStore,
    fault: &PgFault,
    owners: &[Claim],
) -> Vec<Claimed> {
    let gate = Gate::default();
    let held = fault.on_next(insertion, Action::Hold(gate.clone()));
    let first = {
        let store = store.clone();
        tokio::spawn(async move { store.claim(&claim(9_999)).await })
    };
    held.happened(1).await;
    let mut others = JoinSet::new();
    for owner in owners {
        let (store, owner) = (store.clone(), owner.clone());
        others.spawn(async move { store.claim(&owner).await.unwrap() });
    }
    // Each has had its turn to queue up.
    tokio::task::yield_now().await;
    gate.open();
    acquired(within("the first claim", first).await.unwrap());
    within("the claims behind it", others.join_all()).await
}

#[tokio::test]
async fn calls_that_wait_share_a_statement() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    let store = PostgresStore::open(settings(fault.url()));
    let owners: Vec<_> = (0..200).map(claim).collect();
    let claimed = claimed_behind_a_gate(&store, &fault, &owners).await;
    for outcome in claimed {
        assert_eq!(outcome, Claimed::Acquired(Epoch::FIRST));
    }
    let insertions = fault.statements().iter().filter(|s| insertion(s)).count();
    assert!(insertions <= 3, "{insertions} statements for 201 claims");

    let mut settling = JoinSet::new();
    for owner in owners {
        let store = store.clone();
        settling.spawn(async move {
            let settlement = completed("answer");
            store.settle(&owner, Epoch::FIRST, &settlement).await
        });
    }
    for settled in within("the settlements", settling.join_all()).await {
        assert_eq!(settled.unwrap(), Settled::Done);
    }
    let completions = fault.statements().iter().filter(|s| completion(s)).count();
    assert!(
        completions <= 4,
        "{completions} statements for 200 settlements"
    );
    for number in 0..200 {
        let found = f.second.find(&claim(number).id).await.unwrap();
        assert_eq!(response(found).unwrap(), "answer");
    }
}

/// The naive way, for those who compare.
#[tokio::test]
async fn without_group_commit_each_write_is_a_statement() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    let store = PostgresStore::open(settings(fault.url()).with_group_commit(false));
    let mut calls = JoinSet::new();
    for number in 0..20 {
        let store = store.clone();
        calls.spawn(async move {
            let owner = claim(number);
            let epoch = acquired(store.claim(&owner).await);
            store.settle(&owner, epoch, &completed("answer")).await
        });
    }
    for settled in within("the calls", calls.join_all()).await {
        assert_eq!(settled.unwrap(), Settled::Done);
    }
    let count = |what: fn(&str) -> bool| fault.statements().iter().filter(|s| what(s)).count();
    assert_eq!((count(insertion), count(completion)), (20, 20));
}

/// F6, for a group: its commit is done and its answer lost. Each call finds its own record by its token.
#[tokio::test]
async fn the_lost_answer_of_a_group_is_found_out_by_each_of_its_calls() {
    for (statement, what) in [
        (insertion as fn(&str) -> bool, "claims"),
        (completion, "settles"),
    ] {
        let f = Postgres::fresh().await;
        let fault = PgFault::start(&f.database.url()).await;
        let store = PostgresStore::open(settings(fault.url()));
        acquired(store.claim(&claim(9_998)).await);
        let cut = fault.on_next(statement, Action::CutAfter);
        let mut calls = JoinSet::new();
        for number in 0..50 {
            let store = store.clone();
            calls.spawn(async move {
                let owner = claim(number);
                let epoch = acquired(store.claim(&owner).await);
                let settled = store.settle(&owner, epoch, &completed("once")).await;
                (epoch, settled.unwrap())
            });
        }
        for (epoch, settled) in within(what, calls.join_all()).await {
            assert_eq!((epoch, settled), (Epoch::FIRST, Settled::Done), "{what}");
        }
        assert_eq!(cut.hits(), 1, "{what}");
        let rows = "select count(*) from onlyonce_records where epoch = 1 and state = 2";
        assert_eq!(value::<i64>(&mut *f.admin.lock().await, rows).await, 50);
    }
}

/// A row of the group is somebody else's, uncommitted: its call waits for it, its neighbours do not.
#[tokio::test]
async fn a_row_that_is_held_elsewhere_holds_up_only_its_own_call() {
    let f = Postgres::fresh().await;
    let mut stranger = f.database.connect().await;
    acquired(f.second.claim(&claim(7)).await);
    run(
        &mut stranger,
        "create table copy as select * from onlyonce_records; delete from onlyonce_records",
    )
    .await;
    run(
        &mut stranger,
        "begin; insert into onlyonce_records select * from copy",
    )
    .await;

    let mut calls = JoinSet::new();
    for number in 0..7 {
        let store = f.store.clone();
        calls.spawn(async move { store.claim(&claim(number)).await });
    }
    let (store, rival) = (f.store.clone(), rival(&claim(7)));
    let blocked = tokio::spawn(async move { store.claim(&rival).await });
    for claimed in within("the neighbours", calls.join_all()).await {
        acquired(claimed);
    }
    eventually(&mut *f.admin.lock().await, "one call waits", &waiting(1)).await;
    run(&mut stranger, "commit").await;
    let found = present(within("the blocked call", blocked).await.unwrap());
    assert!(matches!(found, Present::InFlight { .. }));
}

/// Settlements of a group are each compared with their own token and epoch.
#[tokio::test]
async fn a_stale_settlement_is_stale_among_good_ones() {
    let f = Postgres::fresh().await;
    let owners: Vec<_> = (0..10).map(claim).collect();
    for owner in &owners {
        acquired(f.store.claim(owner).await);
    }
    let mut settling = JoinSet::new();
    for (number, owner) in owners.into_iter().enumerate() {
        let store = f.store.clone();
        settling.spawn(async move {
            // Five is a stranger with a token of its own; six speaks of an epoch that never was.
            let owner = if number == 5 { rival(&owner) } else { owner };
            let epoch = if number == 6 {
                Epoch::new(2)
            } else {
                Epoch::FIRST
            };
            let settled = store.settle(&owner, epoch, &completed("answer")).await;
            (number, settled.unwrap())
        });
    }
    for (number, settled) in settling.join_all().await {
        let expected = if matches!(number, 5 | 6) {
            Settled::Stale
        } else {
            Settled::Done
        };
        assert_eq!(settled, expected, "{number}");
    }
    for number in [5, 6] {
        let found = f.store.find(&claim(number).id).await.unwrap();
        assert!(matches!(found, Some(Present::InFlight { .. })), "{number}");
    }
}

/// Two groups that lock the same rows in different orders would wait for each other. So rows are locked in
/// the order of their ids: a group that waits for its first row holds none of the others.
#[tokio::test]
async fn a_group_locks_its_rows_in_order() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    let store = PostgresStore::open(settings(fault.url()));
    let owners: Vec<_> = (0..50).map(claim).collect();
    for owner in &owners {
        acquired(store.claim(owner).await);
    }
    let mut stranger = f.database.connect().await;
    let first = owners[0].id;
    run(
        &mut stranger,
        &format!("begin; select from onlyonce_records where id = '{first}' for update"),
    )
    .await;

    let gate = Gate::default();
    let held = fault.on_next(completion, Action::Hold(gate.clone()));
    let mut settling = JoinSet::new();
    let settle = |owner: Claim| {
        let store = store.clone();
        async move { store.settle(&owner, Epoch::FIRST, &completed("x")).await }
    };
    settling.spawn(settle(claim(9_999)));
    held.happened(1).await;
    for owner in owners.iter().rev().cloned() {
        settling.spawn(settle(owner));
    }
    tokio::task::yield_now().await;
    gate.open();
    eventually(&mut *f.admin.lock().await, "the group waits", &waiting(1)).await;
    run(
        &mut stranger,
        &format!("select from onlyonce_records where id <> '{first}' for update nowait; commit"),
    )
    .await;
    for settled in within("all settlements", settling.join_all()).await {
        assert_eq!(settled.unwrap(), Settled::Done);
    }
}

/// A replay writes nothing: a group whose commit hangs does not hold it up.
#[tokio::test]
async fn what_needs_no_commit_gets_past_a_group_that_hangs() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    let store = PostgresStore::open(settings(fault.url()));
    let owner = claim(1);
    let epoch = acquired(store.claim(&owner).await);
    store
        .settle(&owner, epoch, &completed("answer"))
        .await
        .unwrap();
    let gate = Gate::default();
    let held = fault.on_next(insertion, Action::Hold(gate.clone()));
    let hanging = {
        let store = store.clone();
        tokio::spawn(async move { store.claim(&claim(2)).await })
    };
    held.happened(1).await;
    let found = present(store.claim(&rival(&owner)).await);
    assert_eq!(response(Some(found)).unwrap(), "answer");
    assert!(!hanging.is_finished());
    gate.open();
    acquired(within("the call that hung", hanging).await.unwrap());
}

/// A group that waits for a connection hangs no more than its calls would alone: those would only keep it from
/// getting one, for as long as the load lasts.
#[tokio::test]
async fn a_group_without_a_connection_yet_keeps_its_calls_together() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    let store = PostgresStore::open(settings(fault.url()).with_connections(1));
    let gate = Gate::default();
    let held = fault.on_next(reading, Action::Hold(gate.clone()));
    let busy = {
        let store = store.clone();
        tokio::spawn(async move { store.find(&claim(9_999).id).await })
    };
    held.happened(1).await;
    let mut claims = JoinSet::new();
    let claiming = |number| {
        let store = store.clone();
        async move { store.claim(&claim(number)).await }
    };
    claims.spawn(claiming(0));
    // The claim has its turn, and then the task that sends it: a group of one.
    for _ in 0..2 {
        tokio::task::yield_now().await;
    }
    for number in 1..100 {
        claims.spawn(claiming(number));
    }
    // What is tested needs time to pass, in which calls behind a group that hangs would give it up.
    tokio::time::sleep(Duration::from_millis(600)).await;
    gate.open();
    for claimed in within("the claims", claims.join_all()).await {
        acquired(claimed);
    }
    let insertions = fault.statements().iter().filter(|s| insertion(s)).count();
    assert!(insertions <= 3, "{insertions} statements for 100 claims");
    assert_eq!(within("the reading", busy).await.unwrap().unwrap(), None);
}

/// Nothing was sent for it, and it says so: a claim in doubt would be looked after in the background.
#[tokio::test]
async fn a_call_whose_group_got_no_connection_was_not_applied() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    let short = settings(fault.url()).with_call_timeout(Duration::from_millis(500));
    let store = PostgresStore::open(short.with_connections(1));
    let gate = Gate::default();
    // Lists may take minutes.
    let list = |sql: &str| sql.contains("read only");
    let held = fault.on_next(list, Action::Hold(gate.clone()));
    let busy = store.clone();
    let all = Filter {
        state: None,
        limit: 1,
    };
    let listing = tokio::spawn(async move { busy.list(&all).await });
    held.happened(1).await;
    let claiming = within("the claim", store.claim(&claim(1))).await;
    assert!(!claiming.unwrap_err().may_have_applied());
    gate.open();
    within("the list", listing).await.unwrap().unwrap();
    assert_eq!(f.second.find(&claim(1).id).await.unwrap(), None);
}

/// What waits for a group is bounded in time, and says whether it was sent.
#[tokio::test]
async fn a_call_that_no_group_took_along_in_time_was_not_applied() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    let short = Duration::from_millis(600);
    let store = PostgresStore::open(settings(fault.url()).with_call_timeout(short));
    acquired(store.claim(&claim(1)).await);
    let gate = Gate::default();
    let held = fault.on_next(insertion, Action::Hold(gate.clone()));
    let sent = {
        let store = store.clone();
        tokio::spawn(async move { store.claim(&claim(2)).await.unwrap_err() })
    };
    held.happened(1).await;
    let late = {
        let store = store.clone();
        tokio::spawn(async move { store.claim(&claim(3)).await })
    };
    let sent = within("the call that was sent", sent).await.unwrap();
    assert_eq!(sent.kind(), StoreErrorKind::Timeout);
    assert!(sent.may_have_applied());
    // It was taken along by the next group, or gave up before: never both.
    match within("the call behind it", late).await.unwrap() {
        Ok(claimed) => assert_eq!(claimed, Claimed::Acquired(Epoch::FIRST)),
        Err(error) if error.may_have_applied() => {}
        Err(_) => assert_eq!(f.second.find(&claim(3).id).await.unwrap(), None),
    }
    gate.open();
}

/// The first try of a group wrote and lost its answer, the second one met what the first had written, and its
/// call then found no connection to look who that was: it may not say that nothing was written.
#[tokio::test]
async fn a_call_whose_group_was_repeated_is_in_doubt_until_it_has_looked() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    let settings = settings(fault.url()).with_connections(1);
    let store = PostgresStore::open(settings.with_call_timeout(Duration::from_secs(1)));
    let cut = fault.on_next(insertion, Action::CutAfter);
    let met = Gate::default();
    let repeated = fault.on_next(insertion, Action::Hold(met.clone()));
    let owner = claim(1);
    let claiming = {
        let (store, owner) = (store.clone(), owner.clone());
        tokio::spawn(async move { store.claim(&owner).await })
    };
    cut.happened(1).await;
    repeated.happened(1).await;
    // Next in line for the only connection, which it keeps.
    let never = Gate::default();
    fault.on_next(reading, Action::Hold(never.clone()));
    let busy = tokio::spawn(async move { store.find(&claim(2).id).await });
    tokio::task::yield_now().await;
    met.open();
    let error = within("the claim", claiming).await.unwrap().unwrap_err();
    let found = f.second.find(&owner.id).await.unwrap();
    assert!(matches!(found, Some(Present::InFlight { .. })));
    assert!(error.may_have_applied());
    never.open();
    let _ = within("the call that had the connection", busy).await;
}
