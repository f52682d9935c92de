//! Several relays for one sink: they share, one goes on where another ends, and a frozen one changes nothing.

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use onlyonce_outbox::sinks::Memory;
use onlyonce_outbox::{Ack, Envelope, Monitor, Relay, Sink, SinkError};
use onlyonce_test::event::{Gate, within};
use tokio::sync::oneshot;

use crate::fixture::{Postgres, eventually, run, value};
use crate::relay::{Running, commit, first_deliveries, payment, quick};

pub(crate) async fn shards(monitor: &Monitor, count: u64) {
    let reached = async {
        while monitor.stats().shards != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(&format!("a relay to hold {count} shards"), reached).await;
}

#[tokio::test]
async fn relays_share_the_shards_and_the_last_one_has_them_all() {
    let postgres = Postgres::behind_pgbouncer().await;
    let sink = Memory::new("sink");
    let first = Running::start(&postgres, &sink, quick());
    shards(&first.monitor, 64).await;
    let second = Running::start(&postgres, &sink, quick());
    shards(&first.monitor, 32).await;
    shards(&second.monitor, 32).await;
    let third = Running::start(&postgres, &sink, quick());
    shards(&third.monitor, 20).await;
    let mut connection = postgres.connect().await;
    for number in 0..30 {
        let events: Vec<_> = (0..50).map(|key| payment(key, number)).collect();
        commit(&mut connection, &events).await;
        if number == 10 {
            // Not in order: its leases have to lapse.
            third.task.abort();
        }
    }
    let all = |taken: &std::collections::VecDeque<Envelope>| {
        let ids: std::collections::HashSet<_> =
            taken.iter().map(|envelope| envelope.event_id).collect();
        ids.len() == 1_500
    };
    let taken = within("all events", sink.until(all)).await;
    let in_order: Vec<u32> = (0..30).collect();
    for (key, numbers) in first_deliveries(&taken) {
        assert_eq!(numbers, in_order, "of key {key}");
    }
    first.stop().await;
    shards(&second.monitor, 64).await;
    second.stop().await;
}

/// Freezes its whole thread in the first publish: no timer runs, nothing is awaited, as if the process were
/// stopped. What it was given has gone out, and it says that it failed.
struct Freezing {
    memory: Memory,
    frozen: Gate,
    thaw: Arc<(Mutex<bool>, Condvar)>,
}

impl Sink for Freezing {
    fn name(&self) -> &str {
        self.memory.name()
    }

    async fn publish(&self, batch: &[Envelope]) -> Vec<Result<Ack, SinkError>> {
        self.memory.publish(batch).await;
        let arrive = self.frozen.clone();
        tokio::spawn(async move { arrive.pass().await });
        tokio::task::yield_now().await;
        let (thawed, changed) = &*self.thaw;
        let is_thawed = thawed.lock().unwrap();
        drop(changed.wait_while(is_thawed, |thawed| !*thawed).unwrap());
        let failed = |_: &Envelope| Err(SinkError::retryable("lost"));
        batch.iter().map(failed).collect()
    }
}

/// A relay is frozen between the sink's answer and its own writes, for longer than its lease. Thawed, it wants
/// to park an event that another has delivered long since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_late_writes_of_a_frozen_relay_change_nothing() {
    let postgres = Postgres::fresh().await;
    let (before, after) = (Memory::new("sink"), Memory::new("sink"));
    let frozen = Gate::default();
    let thaw: Arc<(Mutex<bool>, Condvar)> = Arc::default();
    let sink = Freezing {
        memory: before.clone(),
        frozen: frozen.clone(),
        thaw: Arc::clone(&thaw),
    };
    let relay = Relay::new(postgres.connector(), sink, quick()).unwrap();
    let monitor = relay.monitor();
    let (stop, stopped) = oneshot::channel::<()>();
    let process = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(relay.run(async move {
            let _ = stopped.await;
        }))
    });
    let mut connection = postgres.connect().await;
    shards(&monitor, 64).await;
    commit(&mut connection, &[payment("a", 1)]).await;
    frozen.reached(1).await;

    let second = Running::start(&postgres, &after, quick());
    shards(&second.monitor, 64).await;
    for number in 2..=5 {
        commit(
            &mut connection,
            &[payment("a", number), payment("b", number)],
        )
        .await;
    }
    let taken = within("the second relay to deliver everything", after.reached(9)).await;
    // The first one once more, since nobody knows whether it got out.
    assert_eq!(first_deliveries(&taken)["a"], [1, 2, 3, 4, 5]);

    *thaw.0.lock().unwrap() = true;
    thaw.1.notify_all();
    let lost = async {
        while monitor.stats().leases_lost == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("the thawed relay to notice", lost).await;
    let parked = "select count(*) from onlyonce_outbox_parked";
    assert_eq!(
        value::<i64>(&mut connection, parked).await,
        0,
        "it parked what another delivered"
    );
    stop.send(()).unwrap();
    let ended = tokio::task::spawn_blocking(move || process.join().unwrap());
    within("the thawed relay to end", ended)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        before.taken().len(),
        1,
        "it published something after it was thawed"
    );
    commit(&mut connection, &[payment("a", 6)]).await;
    within("the second relay to go on", after.reached(10)).await;
    second.stop().await;
    assert_eq!(after.taken().len(), 10);
}

/// Between its last look and its last write, all its shards became another's.
#[tokio::test]
async fn a_relay_that_lost_its_shards_moves_no_cursor_and_frees_none() {
    let postgres = Postgres::behind_pgbouncer().await;
    let sink = Memory::new("sink");
    let an_hour = Duration::from_secs(3_600);
    let options = quick().lease(an_hour).persist(1_000_000, an_hour);
    let relay = Running::start(&postgres, &sink, options);
    let mut connection = postgres.connect().await;
    commit(&mut connection, &[payment("a", 1)]).await;
    within("the event", sink.reached(1)).await;
    let taken_over = "update onlyonce_outbox_cursor set owner = gen_random_uuid(), epoch = epoch + 1, \
         lease_until = statement_timestamp() + interval '1 hour'";
    run(&mut connection, taken_over).await;
    let cursors = "select md5(string_agg(onlyonce_outbox_cursor::text, ',' order by shard)) \
         from onlyonce_outbox_cursor";
    let before: String = value(&mut connection, cursors).await;
    relay.stop().await;
    assert_eq!(value::<String>(&mut connection, cursors).await, before);
}

/// An event whose delivery ends its relay again and again does not hold back the others of its shard for ever:
/// it is put aside, where its tries are counted.
#[tokio::test]
async fn an_event_that_ends_its_relays_is_put_aside() {
    let postgres = Postgres::fresh().await;
    let mut connection = postgres.connect().await;
    let sink = Memory::new("sink");
    // Never answers: its relay is ended while it waits.
    struct Deadly(Memory, Gate);
    impl Sink for Deadly {
        fn name(&self) -> &str {
            self.0.name()
        }
        async fn publish(&self, batch: &[Envelope]) -> Vec<Result<Ack, SinkError>> {
            if batch.iter().any(|envelope| &*envelope.payload == b"666") {
                self.1.pass().await;
            }
            self.0.publish(batch).await
        }
    }
    commit(&mut connection, &[payment("a", 666), payment("a", 1)]).await;
    let options = || {
        quick()
            .lease(Duration::from_millis(400))
            .publish_timeout(Duration::from_millis(250))
    };
    for _ in 0..3 {
        let gate = Gate::default();
        let relay = Relay::new(
            postgres.connector(),
            Deadly(sink.clone(), gate.clone()),
            options(),
        )
        .unwrap();
        let running = tokio::spawn(relay.run(std::future::pending()));
        gate.reached(1).await;
        running.abort();
        let _ = running.await;
    }
    let gate = Gate::default();
    let relay = Relay::new(
        postgres.connector(),
        Deadly(sink.clone(), gate.clone()),
        options(),
    )
    .unwrap();
    let running = tokio::spawn(relay.run(std::future::pending()));
    let parked = "select count(*) = 2 and max(attempts) = 1 from onlyonce_outbox_parked";
    eventually(
        &mut connection,
        "both to be parked, and the try to be counted before it ends",
        parked,
    )
    .await;
    gate.reached(1).await;
    running.abort();
}
