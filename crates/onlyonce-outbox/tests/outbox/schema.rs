//! Migrations: concurrent, repeated, missing, too new.

use onlyonce_outbox::sinks::Memory;
use onlyonce_outbox::{Connector, Error, Event, Relay, append, migrate, schema};
use onlyonce_test::event::{Gate, within};
use onlyonce_test::fault::{Action, PgFault};
use onlyonce_test::postgres::{Database, Server};
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::fixture::{Postgres, run, value};
use crate::relay::{Running, commit, payment, quick};

#[tokio::test]
async fn eight_processes_migrate_an_empty_database_at_once() {
    for server in [Server::Default, Server::Newest] {
        let database = Database::fresh_on(server).await;
        let mut migrating = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let mut connection = database.connect().await;
            migrating.spawn(async move { migrate(&mut connection).await });
        }
        for outcome in migrating.join_all().await {
            outcome.unwrap();
        }
        let mut admin = database.connect().await;
        schema::check(&mut admin).await.unwrap();
        let days =
            "select count(*) from pg_inherits where inhparent = 'onlyonce_outbox_event'::regclass";
        assert_eq!(value::<i64>(&mut admin, days).await, 8);
    }
}

#[tokio::test]
async fn an_empty_database_is_said_to_need_its_migrations() {
    let database = Database::fresh().await;
    let mut connection = database.connect().await;
    let error = schema::check(&mut connection).await.unwrap_err();
    assert!(error.to_string().contains("run its migrations"), "{error}");
    let error = append(&mut connection, &[Event::new("t", 1)], None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("run its migrations"), "{error}");
}

/// Partitions are nobody's concern then.
#[tokio::test]
async fn a_relay_looks_for_the_tables_before_all_else() {
    let database = Database::fresh().await;
    let fault = PgFault::start(&database.url()).await;
    let gate = Gate::default();
    let asked = |sql: &str| sql.contains("onlyonce_outbox_schema");
    let held = fault.on_next(asked, Action::Hold(gate.clone()));
    let options: PgConnectOptions = fault.url().parse().unwrap();
    let relay = Relay::new(options.clone(), Memory::new("sink"), quick()).unwrap();
    let running = tokio::spawn(relay.run(std::future::pending()));
    within("the question", held.happened(1)).await;
    // Whatever else the relay had begun would have come through by then.
    for _ in 0..5 {
        options.connect().await.unwrap();
    }
    gate.open();
    let error = within("the end", running).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Schema(_)), "{error:?}");
    let statements = fault.statements();
    let of_upkeep = statements.iter().find(|sql| sql.contains("pg_inherits"));
    assert_eq!(of_upkeep, None);
}

#[tokio::test]
async fn a_newer_schema_is_used_only_where_it_allows_that() {
    let database = Database::fresh().await;
    let mut connection = database.connect().await;
    migrate(&mut connection).await.unwrap();
    run(
        &mut connection,
        "insert into onlyonce_outbox_schema (version, min_compatible) values (1000, 1)",
    )
    .await;
    migrate(&mut connection).await.unwrap();
    schema::check(&mut connection).await.unwrap();
    run(
        &mut connection,
        "update onlyonce_outbox_schema set min_compatible = version",
    )
    .await;
    for outcome in [
        migrate(&mut connection).await,
        schema::check(&mut connection).await,
    ] {
        let error = outcome.unwrap_err();
        assert!(
            matches!(&error, Error::Schema(text) if text.contains("newer")),
            "{error:?}"
        );
    }
}

/// The session's zone is not UTC, and the days still are.
#[tokio::test]
async fn partitions_are_days_of_utc() {
    let database = Database::fresh().await;
    let mut connection = database.connect().await;
    run(&mut connection, "set timezone = 'Pacific/Auckland'").await;
    migrate(&mut connection).await.unwrap();
    run(&mut connection, "set timezone = 'UTC'").await;
    let midnight = "select bool_and(pg_get_expr(relpartbound, oid) like '%00:00:00+00%00:00:00+00%') \
         from pg_class where relispartition and relkind = 'r' and relname like 'onlyonce_outbox_event_%'";
    assert!(value::<bool>(&mut connection, midnight).await);
    append(&mut connection, &[Event::new("t", 1)], None)
        .await
        .unwrap();
}

/// The rights that the documentation names are enough; what only the owner may do is left undone.
#[tokio::test]
async fn roles_with_few_rights_append_and_relay() {
    let postgres = Postgres::fresh().await;
    let mut admin = postgres.database.connect().await;
    let (writer, relay) = (
        format!("writer_of_{}", postgres.database.name()),
        format!("relay_of_{}", postgres.database.name()),
    );
    run(
        &mut admin,
        &format!(
            "revoke create on schema public from public; create role {writer} login; create role {relay} login; \
             grant insert on onlyonce_outbox_event to {writer}; \
             grant usage on onlyonce_outbox_sequence to {writer}; \
             grant select, insert, update, delete on all tables in schema public to {relay}; \
             grant select on onlyonce_outbox_sequence to {relay}"
        ),
    )
    .await;
    let as_role = |role: &str| -> PgConnectOptions {
        let url = postgres.database.url();
        url.replacen("postgres@", &format!("{role}@"), 1)
            .parse()
            .unwrap()
    };
    let sink = Memory::new("sink");
    let running = Running::connected(Connector::from(as_role(&relay)), &sink, quick());
    let mut connection = as_role(&writer).connect().await.unwrap();
    commit(&mut connection, &[payment(1, 1)]).await;
    within("the event", sink.reached(1)).await;
    running.stop().await;
    drop(connection);
    run(
        &mut admin,
        &format!("drop owned by {writer}, {relay}; drop role {writer}, {relay}"),
    )
    .await;
}
