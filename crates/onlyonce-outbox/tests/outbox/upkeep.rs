//! Days that go, databases that were restored.

use std::process::{Command, Stdio};
use std::time::Duration;

use onlyonce_outbox::retention::sweep;
use onlyonce_outbox::sinks::Memory;
use onlyonce_outbox::{Connector, append, migrate};
use onlyonce_test::event::within;
use onlyonce_test::postgres::{Options, find_bin_dirs};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use crate::fixture::{Postgres, eventually, run, value};
use crate::relay::{Running, commit, first_deliveries, payment, quick};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A day of long ago with events in it.
async fn old_day(connection: &mut PgConnection, day: &str) {
    let name = day.replace('-', "");
    run(
        connection,
        &format!(
            "create table onlyonce_outbox_event_{name} (like onlyonce_outbox_event including all); \
             alter table onlyonce_outbox_event attach partition onlyonce_outbox_event_{name} \
                 for values from ('{day} 00:00:00+00') to ('{day} 24:00:00+00'); \
             insert into onlyonce_outbox_event (created_at, shard, event_id, topic, key, kind, content_type, payload) \
             select '{day} 12:00:00+00', 5, gen_random_uuid(), 'payments', n, 'charged', 'application/json', '1' \
             from generate_series(1, 3) as n"
        ),
    )
    .await;
}

/// Waits until the cursors have moved past everything.
async fn passed(connection: &mut PgConnection) {
    let passed = "select not exists (select from onlyonce_outbox_event e, onlyonce_outbox_cursor c \
         where not pg_visible_in_snapshot(e.xid, c.done))";
    eventually(connection, "the cursors to pass all events", passed).await;
}

#[tokio::test]
async fn a_day_goes_when_it_is_old_and_every_sink_has_passed_it() {
    let postgres = Postgres::fresh().await;
    let mut connection = postgres.connect().await;
    old_day(&mut connection, "2020-02-03").await;
    assert!(
        sweep(&mut connection, DAY).await.unwrap().is_empty(),
        "without a sink nothing goes"
    );
    let (fast, slow) = (Memory::new("fast"), Memory::new("slow"));
    slow.judge(|_| Err(onlyonce_outbox::SinkError::retryable("away")));
    let keeps = || quick().retention(None);
    let first = Running::start(&postgres, &fast, keeps());
    let second = Running::start(&postgres, &slow, keeps());
    within("the fast sink", fast.reached(3)).await;
    while second.monitor.stats().failures == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    second.stop().await;
    let kept = sweep(&mut connection, DAY).await.unwrap();
    // What fails together is not parked, and so not passed.
    assert!(kept.is_empty(), "{kept:?}");
    let second = Running::start(&postgres, &slow, keeps());
    slow.judge(|_| Ok(onlyonce_outbox::Ack::default()));
    within("the slow sink", slow.reached(3)).await;
    passed(&mut connection).await;
    let ages = Duration::from_secs(100 * 365 * 24 * 3_600);
    assert!(
        sweep(&mut connection, ages).await.unwrap().is_empty(),
        "it is too young"
    );
    let dropped = sweep(&mut connection, DAY).await.unwrap();
    assert_eq!(dropped, ["public.onlyonce_outbox_event_20200203"]);
    commit(&mut connection, &[payment(1, 1)]).await;
    within("a new event", fast.reached(4)).await;
    first.stop().await;
    second.stop().await;
}

/// While somebody reads the day that is to go, insertions go on; a sweep that is interrupted is finished by the
/// next one.
#[tokio::test]
async fn a_long_reader_delays_the_sweep_and_nobody_else() {
    let postgres = Postgres::fresh().await;
    let mut connection = postgres.connect().await;
    old_day(&mut connection, "2020-02-03").await;
    let sink = Memory::new("sink");
    let relay = Running::start(&postgres, &sink, quick().retention(None));
    within("the events", sink.reached(3)).await;
    passed(&mut connection).await;
    relay.stop().await;

    let mut reader = postgres.connect().await;
    run(
        &mut reader,
        "begin; select count(*) from onlyonce_outbox_event",
    )
    .await;
    let sweeping = async |mut connection: PgConnection| sweep(&mut connection, DAY).await;
    let interrupted = tokio::spawn(sweeping(postgres.connect().await));
    let pending = "select count(*) = 1 from pg_inherits where inhdetachpending";
    eventually(&mut connection, "the detaching to wait", pending).await;
    run(&mut connection, "set lock_timeout = '1s'").await;
    commit(&mut connection, &[payment(1, 1)]).await;
    let backend = "select pg_terminate_backend(pid) from pg_stat_activity \
         where datname = current_database() and query like 'alter table onlyonce_outbox_event detach%'";
    assert!(value::<bool>(&mut connection, backend).await);
    within("the interrupted sweep", interrupted)
        .await
        .unwrap()
        .unwrap_err();
    run(&mut reader, "commit").await;
    let dropped = sweep(&mut connection, DAY).await.unwrap();
    assert_eq!(dropped, ["public.onlyonce_outbox_event_20200203"]);
}

/// Cursors from a future that this server has not reached: everything comes again, and then as ever.
#[tokio::test]
async fn cursors_from_elsewhere_are_noticed() {
    for tampered in [
        "update onlyonce_outbox_cursor set done = '9000000:9000000:'",
        "update onlyonce_outbox_cluster set system_identifier = 1",
        "update onlyonce_outbox_cluster set database = 1",
        // As a dump from a cluster that was further ahead brings them.
        "update onlyonce_outbox_event set xid = '9000000'; \
         update onlyonce_outbox_cursor set done = '9000001:9000001:'; \
         update onlyonce_outbox_cluster set system_identifier = 1",
    ] {
        let postgres = Postgres::behind_pgbouncer().await;
        let sink = Memory::new("sink");
        let mut connection = postgres.connect().await;
        let relay = Running::start(&postgres, &sink, quick());
        commit(&mut connection, &[payment(1, 1), payment(1, 2)]).await;
        within("both events", sink.reached(2)).await;
        relay.stop().await;
        run(&mut connection, tampered).await;
        commit(&mut connection, &[payment(1, 3)]).await;
        let relay = Running::start(&postgres, &sink, quick());
        let taken = within("everything again, and the new one", sink.reached(5)).await;
        assert_eq!(
            first_deliveries(&taken[2..])["1"],
            [1, 2, 3],
            "after {tampered}"
        );
        assert_eq!(relay.monitor.stats().resyncs, 1);
        relay.stop().await;
        let relay = Running::start(&postgres, &sink, quick());
        commit(&mut connection, &[payment(1, 4)]).await;
        within("the next one, and nothing else", sink.reached(6)).await;
        assert_eq!(relay.monitor.stats().resyncs, 0);
        relay.stop().await;
        assert_eq!(sink.taken().len(), 6);
    }
}

/// A dump is restored into a new cluster, whose transaction ids are far lower.
#[tokio::test]
async fn a_dump_in_a_new_cluster_is_delivered_again() {
    let postgres = Postgres::fresh().await;
    let sink = Memory::new("sink");
    let mut connection = postgres.connect().await;
    run(
        &mut connection,
        "do $$ begin for i in 1..3000 loop perform pg_current_xact_id(); commit; end loop; end $$",
    )
    .await;
    let relay = Running::start(&postgres, &sink, quick());
    commit(&mut connection, &[payment(1, 1), payment(1, 2)]).await;
    within("both events", sink.reached(2)).await;
    relay.stop().await;
    commit(&mut connection, &[payment(1, 3)]).await;

    let bin = find_bin_dirs()
        .into_iter()
        .next()
        .expect("a Postgres is installed");
    let cluster = Options::default().fsync(false).start(&bin).unwrap();
    let mut dump = Command::new(bin.join("pg_dump"))
        .arg(postgres.database.url())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let restored = Command::new(bin.join("psql"))
        .args(["--quiet", "--set=ON_ERROR_STOP=1"])
        .arg(cluster.url("postgres"))
        .stdin(dump.stdout.take().unwrap())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(restored.success() && dump.wait().unwrap().success());
    let options: PgConnectOptions = cluster.url("postgres").parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    let lower = "select pg_snapshot_xmax(pg_current_snapshot()) < (select max(xid) from onlyonce_outbox_event)";
    assert!(
        value::<bool>(&mut connection, lower).await,
        "the test needs a cluster with lower ids"
    );
    migrate(&mut connection).await.unwrap();
    append(&mut connection, &[payment(1, 4)], None)
        .await
        .unwrap();

    let restored = Memory::new("sink");
    let relay = Running::connected(Connector::from(options), &restored, quick());
    let taken = within("everything that is there", restored.reached(4)).await;
    assert_eq!(first_deliveries(&taken)["1"], [1, 2, 3, 4]);
    assert_eq!(relay.monitor.stats().resyncs, 1);
    append(&mut connection, &[payment(1, 5)], None)
        .await
        .unwrap();
    within("what is new", restored.reached(5)).await;
    relay.stop().await;
}
