//! Connections that break, hang, are refused, or belong to calls that were dropped.

use std::time::Duration;

use onlyonce::Epoch;
use onlyonce::store::operator::{FREED_REST, Operator, Resolution};
use onlyonce::store::{Claimed, Present, Settled, Store, StoreErrorKind};
use onlyonce_sqlx::PostgresStore;
use onlyonce_test::conformance::Fixture;
use onlyonce_test::conformance::sample::{acquired, claim, completed, present, response, rival};
use onlyonce_test::event::{Gate, polled, within};
use onlyonce_test::fault::{Action, PgFault};
use tokio::net::TcpListener;

use crate::fixture::{Postgres, eventually, settings, value};

fn insertion(sql: &str) -> bool {
    sql.contains("insert into onlyonce_records")
}

/// F5: a pool of one connection, and calls that are dropped at every point where they can be.
#[tokio::test]
async fn dropped_calls_leave_no_transaction_and_a_pool_of_one_usable() {
    for pooled in [false, true] {
        let f = if pooled {
            Postgres::behind_pgbouncer().await
        } else {
            Postgres::fresh().await
        };
        let store = f.another(|settings| settings.with_connections(1));
        let mut admin = f.admin.lock().await;
        for number in 0..96_u16 {
            let owner = claim(number);
            let times = usize::from(number % 24);
            let _ = polled(times, store.claim(&owner)).await;
            // Nobody else comes to end what the dropped call began.
            eventually(&mut admin, "no transaction is open", NONE_OPEN).await;
            // The same connection, if it was given back.
            let epoch = acquired(store.claim(&owner).await);
            let settlement = completed("answer");
            let _ = polled(times, store.settle(&owner, epoch, &settlement)).await;
            eventually(&mut admin, "no transaction is open", NONE_OPEN).await;
            let settled = store.settle(&owner, epoch, &settlement).await;
            assert_eq!(settled.unwrap(), Settled::Done);
        }
        let all = "select count(*) from onlyonce_records where state = 2";
        assert_eq!(value::<i64>(&mut admin, all).await, 96, "pooled: {pooled}");
    }
}

const NONE_OPEN: &str = "select count(*) = 0 from pg_stat_activity \
     where datname = current_database() and state like 'idle in transaction%'";

/// F6: the claim is committed, its answer is lost, and its repeat finds its own.
#[tokio::test]
async fn a_claim_whose_answer_is_lost_is_acquired_by_its_repeat() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    let store = PostgresStore::open(settings(fault.url()));
    let owner = claim(1);
    let cut = fault.on_next(insertion, Action::CutAfter);
    assert_eq!(acquired(store.claim(&owner).await), Epoch::FIRST);
    cut.happened(1).await;

    let settlement = completed("answer");
    let cut = fault.on_next(|sql| sql.contains("set state = 2"), Action::CutAfter);
    let settled = store.settle(&owner, Epoch::FIRST, &settlement).await;
    assert_eq!(settled.unwrap(), Settled::Done);
    cut.happened(1).await;
    let found = store.find(&owner.id).await.unwrap();
    assert_eq!(response(found), Some("answer".into()));
}

/// As above, where it is the `commit` behind a pooler that is lost.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_done() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    let store = PostgresStore::open(settings(fault.url()).with_pooler(true));
    let owner = claim(1);
    let cut = fault.on_next(|sql| sql == "commit", Action::CutAfter);
    assert_eq!(acquired(store.claim(&owner).await), Epoch::FIRST);
    cut.happened(1).await;
}

/// The server lets the account have fewer connections than the store would take: calls wait for those.
#[tokio::test]
async fn a_server_with_few_connections_to_spare_refuses_no_claim() {
    let f = Postgres::fresh().await;
    let role = format!("few_of_{}", f.database.name());
    f.run(&format!(
        "create role {role} login connection limit 2; \
         grant usage on schema clock to {role}; grant select on clock.moved to {role}; \
         grant select, insert, update, delete on all tables in schema public to {role}"
    ))
    .await;
    let url = f
        .database
        .url()
        .replacen("postgres@", &format!("{role}@"), 1);
    let store = PostgresStore::open(settings(&url));
    let mut claiming = tokio::task::JoinSet::new();
    acquired(store.claim(&claim(0)).await);
    for number in 1..200 {
        let store = store.clone();
        claiming.spawn(async move { acquired(store.claim(&claim(number)).await) });
    }
    within("all are acquired", claiming.join_all()).await;
    drop(store);
    f.run(&format!("drop owned by {role}")).await;
}

/// An operator's decision names the record as it was seen. Its answer is lost, and a client makes use of the
/// freed key as soon as it may: repeated, the decision would fall on the new owner's record.
#[tokio::test]
async fn a_decision_whose_answer_is_lost_is_not_taken_again() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    let store = PostgresStore::open(settings(fault.url()));
    let (first, second) = (claim(1), rival(&claim(1)));
    let epoch = acquired(f.store.claim(&first).await);
    let settled = f.store.settle(&first, epoch, &completed("first")).await;
    assert_eq!(settled.unwrap(), Settled::Done);

    let cut = fault.on_next(
        |sql| sql.contains("set epoch = epoch + 1"),
        Action::CutAfter,
    );
    let forgotten = store.resolve(&first.id, &Resolution::Forget, false).await;
    cut.happened(1).await;
    assert!(forgotten.unwrap_err().may_have_applied());

    // Its rest begins with whoever sees it first, however long ago it was made.
    f.advance(FREED_REST * 100).await;
    for _ in 0..2 {
        let Present::InFlight { lease_remaining } = present(f.store.claim(&second).await) else {
            panic!("it rests");
        };
        assert!(lease_remaining <= FREED_REST);
        f.advance(FREED_REST / 2).await;
    }
    let epoch = acquired(f.store.claim(&second).await);
    assert_eq!(epoch, Epoch::new(3), "forgotten once");
}

/// Every answer is lost: the caller hears that the claim may have happened, and it did.
#[tokio::test]
async fn an_error_says_that_the_claim_may_have_happened() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    let store = PostgresStore::open(settings(fault.url()));
    let owner = claim(1);
    let cut = fault.on_each(insertion, Action::CutAfter);
    let error = store.claim(&owner).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.may_have_applied());
    assert!(error.is_transient());
    cut.stop();
    assert_eq!(acquired(f.store.claim(&owner).await), Epoch::FIRST);
}

/// A claim that the network delivers after its repeat was released must not own the record again.
#[tokio::test]
async fn a_late_claim_statement_changes_nothing() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    let store = PostgresStore::open(settings(fault.url()));
    let owner = claim(1);
    let gate = Gate::default();
    let late = fault.on_next(insertion, Action::Late(gate.clone()));
    let epoch = acquired(store.claim(&owner).await);
    let released = onlyonce::store::Settlement::Released;
    store.settle(&owner, epoch, &released).await.unwrap();
    gate.open();
    late.happened(1).await;
    assert_eq!(f.store.find(&owner.id).await.unwrap(), None);
    assert_eq!(acquired(f.store.claim(&rival(&owner)).await), epoch.next());
}

/// F12: packets are lost, nothing is reset.
#[tokio::test]
async fn a_black_hole_is_a_timeout_and_heals() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    let short = |settings: onlyonce_sqlx::postgres::Settings| {
        settings
            .with_call_timeout(Duration::from_millis(500))
            .with_connect_timeout(Duration::from_millis(200))
    };
    let store = PostgresStore::open(short(settings(fault.url())));
    acquired(store.claim(&claim(1)).await);
    let statements = fault.statements().len();

    fault.black_hole();
    let error = store.claim(&claim(2)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Timeout);
    assert!(error.may_have_applied(), "it was sent");
    // The connection was closed; a new one is not to be had.
    let error = store.claim(&claim(3)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(!error.may_have_applied(), "it was not sent");

    fault.heal();
    within("the store heals", async {
        while store.claim(&claim(4)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(fault.statements().len() > statements);
}

#[tokio::test]
async fn a_server_that_is_down_refuses_at_once_and_is_asked_with_pauses() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    fault.refuse();
    // Nothing is wrong with starting before the database.
    let store = PostgresStore::open(settings(fault.url()));
    let mut claiming = tokio::task::JoinSet::new();
    for number in 0..200 {
        let store = store.clone();
        claiming.spawn(async move { store.claim(&claim(number)).await.unwrap_err() });
    }
    for error in claiming.join_all().await {
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        assert!(!error.may_have_applied());
    }
    // Two hundred calls within some milliseconds, and hardly a connection: no storm.
    assert!(
        fault.connections() < 20,
        "{} connections",
        fault.connections()
    );

    fault.heal();
    within("the store heals", async {
        while store.claim(&claim(1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = settings(&format!("postgres://postgres@127.0.0.1:{port}/app"))
        .with_connect_timeout(Duration::from_millis(100));
    let error = PostgresStore::connect(settings).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains(&format!("127.0.0.1:{port}")), "{source}");
}

/// Claims wait for a connection, and not for ever.
#[tokio::test]
async fn waiting_for_a_connection_is_bounded_and_nothing_was_sent() {
    let f = Postgres::fresh().await;
    let fault = PgFault::start(&f.database.url()).await;
    let settings = settings(fault.url())
        .with_connections(1)
        .with_call_timeout(Duration::from_secs(2));
    let store = PostgresStore::open(settings);
    acquired(store.claim(&claim(1)).await);
    let gate = Gate::default();
    let held = fault.on_next(insertion, Action::Hold(gate.clone()));
    let (holding, owner) = (store.clone(), claim(2));
    let first = tokio::spawn(async move { holding.claim(&owner).await });
    held.happened(1).await;

    let error = store.claim(&claim(3)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Timeout);
    let present = f.second.find(&claim(3).id).await.unwrap();
    assert_eq!(present, None::<Present>);
    gate.open();
    drop(first);
    acquired(store.claim(&claim(4)).await);
}

/// F8: the server loses its sessions under load; no record is acknowledged and gone.
#[tokio::test]
async fn sessions_that_are_terminated_cost_no_claim() {
    let f = Postgres::fresh().await;
    let mut working = tokio::task::JoinSet::new();
    for part in 0..8_u16 {
        let store = f.store.clone();
        working.spawn(async move {
            for number in 0..40 {
                let owner = claim(part * 100 + number);
                // One whose new session was ended as well is told so, and repeats.
                let claimed = loop {
                    match store.claim(&owner).await {
                        Ok(claimed) => break claimed,
                        Err(error) => assert_eq!(error.kind(), StoreErrorKind::Unavailable),
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                };
                assert_eq!(claimed, Claimed::Acquired(Epoch::FIRST));
            }
        });
    }
    for _ in 0..10 {
        f.run(
            "select pg_terminate_backend(pid) from pg_stat_activity \
             where datname = current_database() and application_name = 'onlyonce'",
        )
        .await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    working.join_all().await;
    let all = "select count(*) from onlyonce_records";
    assert_eq!(value::<i64>(&mut *f.admin.lock().await, all).await, 320);
}
