//! The Postgres fault proxy in front of a real server: what the server did and what its client saw.

use std::time::Duration;

use onlyonce_test::event::{Gate, within};
use onlyonce_test::fault::{Action, PgFault};
use onlyonce_test::postgres::Database;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

const INSERT: &str = "insert into effects values ($1)";

fn inserts(sql: &str) -> bool {
    sql == INSERT
}

async fn insert(connection: &mut PgConnection, number: i32) -> Result<(), sqlx::Error> {
    sqlx::query(INSERT)
        .bind(number)
        .execute(connection)
        .await
        .map(drop)
}

struct Setup {
    database: Database,
    direct: PgConnection,
    fault: PgFault,
}

impl Setup {
    async fn new() -> Self {
        let database = Database::fresh().await;
        let mut direct = database.connect().await;
        direct
            .execute("create table effects (number int)")
            .await
            .unwrap();
        let fault = PgFault::start(&database.url()).await;
        Self {
            database,
            direct,
            fault,
        }
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(self.fault.url()).await.unwrap()
    }

    async fn effects(&mut self) -> Vec<i32> {
        let all = "select number from effects order by 1";
        sqlx::query_scalar(all)
            .fetch_all(&mut self.direct)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn what_no_rule_takes_passes_unchanged() {
    let mut setup = Setup::new().await;
    let mut client = setup.connect().await;
    for number in 1..=3 {
        insert(&mut client, number).await.unwrap(); // prepared once, then recognised by its name
    }
    let answer: String = sqlx::query_scalar("select repeat('x', 100000)")
        .fetch_one(&mut client)
        .await
        .unwrap();
    assert_eq!(answer.len(), 100_000);
    assert_eq!(setup.effects().await, [1, 2, 3]);
    assert_eq!(
        setup
            .fault
            .statements()
            .iter()
            .filter(|sql| inserts(sql))
            .count(),
        3
    );
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_cut_after_loses_the_reply_of_what_was_committed() {
    let mut setup = Setup::new().await;
    let mut client = setup.connect().await;
    insert(&mut client, 1).await.unwrap();
    let cut = setup.fault.on_next(inserts, Action::CutAfter);
    insert(&mut client, 2).await.unwrap_err();
    cut.happened(1).await;
    assert_eq!(setup.effects().await, [1, 2]);

    // The same with a transaction, whose COMMIT is a simple query.
    let mut client = setup.connect().await;
    setup
        .fault
        .on_next(|sql| sql.eq_ignore_ascii_case("commit"), Action::CutAfter);
    let mut transaction = client.begin().await.unwrap();
    insert(&mut transaction, 3).await.unwrap();
    transaction.commit().await.unwrap_err();
    assert_eq!(setup.effects().await, [1, 2, 3]);
}

#[tokio::test]
async fn a_cut_before_keeps_it_from_the_server() {
    let mut setup = Setup::new().await;
    let mut client = setup.connect().await;
    insert(&mut client, 1).await.unwrap();
    let cut = setup.fault.on_each(inserts, Action::CutBefore);
    insert(&mut client, 2).await.unwrap_err();
    insert(&mut setup.connect().await, 3).await.unwrap_err();
    cut.happened(2).await;
    cut.stop();
    insert(&mut setup.connect().await, 4).await.unwrap();
    assert_eq!(setup.effects().await, [1, 4]);
}

#[tokio::test]
async fn a_held_statement_arrives_though_its_client_has_left() {
    let mut setup = Setup::new().await;
    let mut client = setup.connect().await;
    let gate = Gate::default();
    let held = setup.fault.on_next(inserts, Action::Hold(gate.clone()));
    {
        let statement = insert(&mut client, 1);
        tokio::select! {
            done = statement => panic!("not held: {done:?}"),
            () = held.happened(1) => {}
        }
    }
    drop(client);
    assert!(setup.effects().await.is_empty());
    gate.open();
    within("the late effect", async {
        while setup.effects().await != [1] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_late_statement_fails_at_once_and_takes_effect_later() {
    let mut setup = Setup::new().await;
    let mut client = setup.connect().await;
    insert(&mut client, 1).await.unwrap();
    let gate = Gate::default();
    let late = setup.fault.on_next(inserts, Action::Late(gate.clone()));
    insert(&mut client, 2).await.unwrap_err();
    insert(&mut setup.connect().await, 3).await.unwrap();
    assert_eq!(setup.effects().await, [1, 3]);
    gate.open();
    late.happened(1).await;
    assert_eq!(setup.effects().await, [1, 2, 3]);
}

#[tokio::test]
async fn a_black_hole_is_silent_in_the_directions_asked_for_and_heals() {
    let mut setup = Setup::new().await;
    let mut client = setup.connect().await;
    insert(&mut client, 1).await.unwrap();

    setup.fault.black_hole_to_client();
    {
        let statement = insert(&mut client, 2);
        tokio::pin!(statement);
        let executed = async {
            while setup.effects().await != [1, 2] {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            done = &mut statement => panic!("answered through a black hole: {done:?}"),
            () = executed => {}
        }
        setup.fault.heal();
        within("the answer after healing", statement).await.unwrap();
    }

    setup.fault.black_hole();
    let seen = setup.fault.statements().len();
    {
        let statement = insert(&mut client, 3);
        tokio::pin!(statement);
        let sent = async {
            while setup.fault.statements().len() == seen {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            done = &mut statement => panic!("answered through a black hole: {done:?}"),
            () = sent => {}
        }
        let mut direct = setup.database.connect().await;
        let count = "select count(*) from effects";
        let count: i64 = sqlx::query_scalar(count)
            .fetch_one(&mut direct)
            .await
            .unwrap();
        assert_eq!(count, 2);
        setup.fault.heal();
        within("the answer after healing", statement).await.unwrap();
    }
    assert_eq!(setup.effects().await, [1, 2, 3]);
}

#[tokio::test]
async fn connections_are_refused_and_reset_on_command() {
    let setup = Setup::new().await;
    let mut client = setup.connect().await;
    setup.fault.refuse();
    PgConnection::connect(setup.fault.url()).await.unwrap_err();
    insert(&mut client, 1).await.unwrap();
    setup.fault.heal();
    setup.fault.reset_all();
    within("an error", insert(&mut client, 2))
        .await
        .unwrap_err();
    insert(&mut setup.connect().await, 3).await.unwrap();
}
