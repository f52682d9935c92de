//! The relay: what was committed is delivered, in order for each key, whatever fails.

use std::collections::HashMap;
use std::time::Duration;

use onlyonce_outbox::sinks::Memory;
use onlyonce_outbox::{
    Ack, Connector, Envelope, Error, Event, Monitor, OnDead, Relay, RelayOptions, Sink, SinkError,
    Start, Wake, append,
};
use onlyonce_test::event::{Gate, within};
use onlyonce_test::postgres::Server;
use sqlx::postgres::PgConnection;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::fixture::{Postgres, eventually, run, value};

/// Quick to notice and quick to try again.
pub(crate) fn quick() -> RelayOptions {
    RelayOptions::default()
        .lease(Duration::from_secs(2))
        .publish_timeout(Duration::from_secs(1))
        .retry(Duration::from_millis(5), Duration::from_millis(50))
        .breaker(Duration::from_millis(5), Duration::from_millis(50))
        .persist(100, Duration::from_millis(50))
        .poll(Duration::from_millis(2), Duration::from_millis(20))
}

/// A relay in a task of its own.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    pub(crate) task: JoinHandle<Result<(), Error>>,
    pub(crate) monitor: Monitor,
}

impl Running {
    pub(crate) fn start(postgres: &Postgres, sink: &Memory, options: RelayOptions) -> Self {
        Self::connected(postgres.connector(), sink, options)
    }

    pub(crate) fn connected(connector: Connector, sink: &Memory, options: RelayOptions) -> Self {
        let relay = Relay::new(connector, sink.clone(), options).unwrap();
        let monitor = relay.monitor();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(relay.run(async move {
            let _ = stopped.await;
        }));
        Self {
            stop,
            task,
            monitor,
        }
    }

    /// In order.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        within("the relay to stop", self.task)
            .await
            .unwrap()
            .unwrap();
    }
}

pub(crate) async fn commit(connection: &mut PgConnection, events: &[Event]) {
    run(connection, "begin").await;
    append(connection, events, None).await.unwrap();
    run(connection, "commit").await;
}

pub(crate) fn payment(key: impl std::fmt::Display, number: u32) -> Event {
    Event::new("payments", key)
        .kind("charged")
        .json(&number)
        .unwrap()
}

/// The payloads of each key, in the order of their first delivery.
pub(crate) fn first_deliveries(taken: &[Envelope]) -> HashMap<String, Vec<u32>> {
    let mut seen = std::collections::HashSet::new();
    let mut keys: HashMap<String, Vec<u32>> = HashMap::new();
    for envelope in taken
        .iter()
        .filter(|envelope| seen.insert(envelope.event_id))
    {
        let number = serde_json::from_slice(&envelope.payload).unwrap();
        keys.entry(envelope.key.clone().unwrap_or_default())
            .or_default()
            .push(number);
    }
    keys
}

#[tokio::test]
async fn what_was_committed_is_delivered_as_it_was() {
    let newest = Postgres::on(Server::Newest).await;
    for postgres in [
        Postgres::fresh().await,
        Postgres::behind_pgbouncer().await,
        newest,
    ] {
        let sink = Memory::new("sink");
        let relay = Running::start(&postgres, &sink, quick());
        let mut connection = postgres.connect().await;
        let event = payment(1, 7).header("tenant", "acme");
        let (id, payload) = (event.event_id(), "7");
        commit(&mut connection, &[event]).await;
        run(&mut connection, "begin").await;
        append(&mut connection, &[payment(2, 8)], None)
            .await
            .unwrap();
        run(&mut connection, "rollback").await;
        commit(&mut connection, &[Event::unordered("audit")]).await;
        let taken = within("two events", sink.reached(2)).await;
        let first = taken
            .iter()
            .find(|envelope| envelope.event_id == id)
            .unwrap();
        assert_eq!(first.topic, "payments");
        assert_eq!(first.key.as_deref(), Some("1"));
        assert_eq!(first.kind, "charged");
        assert_eq!(first.content_type, "application/json");
        assert_eq!(first.payload, payload);
        assert_eq!(first.headers.get("tenant").unwrap(), "acme");
        assert_eq!(first.attempt, 1);
        assert!(first.created_at.elapsed().unwrap() < Duration::from_secs(60));
        assert!(
            taken
                .iter()
                .any(|envelope| envelope.topic == "audit" && envelope.key.is_none())
        );
        relay.stop().await;
        assert_eq!(sink.taken().len(), 2);
    }
}

/// After a relay that stopped in order, the next one delivers what is new and nothing twice.
#[tokio::test]
async fn the_next_relay_goes_on_where_the_last_one_stopped() {
    let postgres = Postgres::fresh().await;
    let sink = Memory::new("sink");
    let mut connection = postgres.connect().await;
    for round in 1..=3_u32 {
        let relay = Running::start(&postgres, &sink, quick().page(7));
        for number in 0..50 {
            commit(
                &mut connection,
                &[payment(number % 5, round * 100 + number)],
            )
            .await;
        }
        let count = usize::try_from(round * 50).unwrap();
        within("all events", sink.reached(count)).await;
        relay.stop().await;
        assert_eq!(sink.taken().len(), count);
    }
    for numbers in first_deliveries(&sink.taken()).values() {
        assert_eq!(numbers.len(), 30);
        assert!(numbers.is_sorted());
    }
}

#[tokio::test]
async fn a_new_sink_starts_where_it_is_told() {
    let postgres = Postgres::fresh().await;
    let mut connection = postgres.connect().await;
    commit(&mut connection, &[payment(1, 1)]).await;
    let (early, late) = (Memory::new("early"), Memory::new("late"));
    let from_the_first = Running::start(&postgres, &early, quick());
    let from_now = Running::start(&postgres, &late, quick().start(Start::Latest));
    within("the old event", early.reached(1)).await;
    let all = "select count(*) = 64 from onlyonce_outbox_cursor where sink = 'late'";
    eventually(&mut connection, "the late sink to be known", all).await;
    commit(&mut connection, &[payment(1, 2)]).await;
    within("the new event", early.reached(2)).await;
    within("the new event", late.reached(1)).await;
    assert_eq!(first_deliveries(&late.taken())["1"], [2]);
    from_the_first.stop().await;
    from_now.stop().await;
}

/// Two relays look seldom, and both hear of a commit at once.
#[tokio::test]
async fn a_wake_makes_them_look() {
    let postgres = Postgres::fresh().await;
    let wake = Wake::default();
    let an_hour = Duration::from_secs(3_600);
    let options = || quick().poll(an_hour, an_hour).wake(wake.clone());
    let (one, other) = (Memory::new("one"), Memory::new("other"));
    let relays = [
        Running::start(&postgres, &one, options()),
        Running::start(&postgres, &other, options()),
    ];
    let mut connection = postgres.connect().await;
    for number in 1..=3 {
        commit(&mut connection, &[payment(1, number)]).await;
        wake.wake();
        let count = usize::try_from(number).unwrap();
        within("the event", one.reached(count)).await;
        within("the event at the other sink", other.reached(count)).await;
    }
    for relay in relays {
        relay.stop().await;
    }
}

/// Waits at a gate before each batch.
struct Gated {
    memory: Memory,
    gate: Gate,
}

impl Sink for Gated {
    fn name(&self) -> &str {
        self.memory.name()
    }

    async fn publish(&self, batch: &[Envelope]) -> Vec<Result<Ack, SinkError>> {
        self.gate.pass().await;
        self.memory.publish(batch).await
    }
}

/// What it has read goes out, and its cursors say so.
#[tokio::test]
async fn a_relay_that_is_told_to_stop_first_sends_what_it_has() {
    let postgres = Postgres::fresh().await;
    let mut connection = postgres.connect().await;
    let events: Vec<_> = (0..500).map(|key| payment(key, 1)).collect();
    commit(&mut connection, &events).await;
    let (memory, gate) = (Memory::new("sink"), Gate::default());
    let sink = Gated {
        memory: memory.clone(),
        gate: gate.clone(),
    };
    let relay = Relay::new(postgres.connector(), sink, quick().concurrency(1)).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(relay.run(async move {
        let _ = stopped.await;
    }));
    gate.reached(1).await;
    stop.send(()).unwrap();
    gate.open();
    within("the relay to stop", running).await.unwrap().unwrap();
    assert_eq!(memory.taken().len(), 500);
    let next = Running::start(&postgres, &memory, quick());
    commit(&mut connection, &[payment(1, 2)]).await;
    within("what is new, and nothing else", memory.reached(501)).await;
    next.stop().await;
    assert_eq!(memory.taken().len(), 501);
}

/// 1 000 keys with three events each, and one of them is poison. Redriven, its order is kept.
#[tokio::test]
async fn a_poison_key_holds_back_itself_and_nothing_else() {
    let postgres = Postgres::behind_pgbouncer().await;
    let sink = Memory::new("sink");
    sink.judge(|envelope| match envelope.key.as_deref() {
        Some("666") => Err(SinkError::retryable("poison")),
        _ => Ok(Ack::default()),
    });
    let relay = Running::start(&postgres, &sink, quick());
    let mut connection = postgres.connect().await;
    for number in 1..=3 {
        let events: Vec<_> = (0..1_000).map(|key| payment(key, number)).collect();
        commit(&mut connection, &events).await;
    }
    within("all others", sink.reached(2_997)).await;
    let parked = "select count(*) = 3 and count(*) filter (where state = 0) = 1 and max(attempts) > 2 \
         from onlyonce_outbox_parked where key = '666'";
    eventually(
        &mut connection,
        "the poison to be tried a few times",
        parked,
    )
    .await;
    assert_eq!(
        value::<i64>(
            &mut connection,
            "select count(*) from onlyonce_outbox_parked"
        )
        .await,
        3
    );
    // More come for it, and wait.
    commit(&mut connection, &[payment(666, 4), payment(5, 4)]).await;
    within("the event of another key", sink.reached(2_998)).await;
    sink.judge(|_| Ok(Ack::default()));
    let taken = within("the poison key's events", sink.reached(3_002)).await;
    let keys = first_deliveries(&taken);
    assert_eq!(keys["666"], [1, 2, 3, 4]);
    assert_eq!(keys["5"], [1, 2, 3, 4]);
    let attempts = taken
        .iter()
        .filter(|envelope| envelope.key.as_deref() == Some("666"));
    let attempts: Vec<_> = attempts.map(|envelope| envelope.attempt).collect();
    assert!(attempts[0] > 3, "{attempts:?}");
    eventually(
        &mut connection,
        "nothing to be parked",
        "select count(*) = 0 from onlyonce_outbox_parked",
    )
    .await;
    relay.stop().await;
    assert_eq!(sink.taken().len(), 3_002);
}

#[tokio::test]
async fn a_dead_letter_blocks_its_key_or_is_passed_over() {
    for (on_dead, expected) in [(OnDead::Block, vec![]), (OnDead::Skip, vec![2, 3])] {
        let postgres = Postgres::fresh().await;
        let sink = Memory::new("sink");
        sink.judge(|envelope| match &*envelope.payload {
            b"1" => Err(SinkError::dead("malformed")),
            _ => Ok(Ack::default()),
        });
        let relay = Running::start(&postgres, &sink, quick().on_dead(on_dead));
        let mut connection = postgres.connect().await;
        for number in 1..=3 {
            commit(&mut connection, &[payment("a", number)]).await;
        }
        commit(&mut connection, &[payment("b", 9)]).await;
        within("the others", sink.reached(expected.len() + 1)).await;
        let states = "select string_agg(state::text, '' order by id) from onlyonce_outbox_parked";
        let keys = first_deliveries(&sink.taken());
        if on_dead == OnDead::Block {
            eventually(
                &mut connection,
                "two to wait behind the dead one",
                "select count(*) = 3 from onlyonce_outbox_parked",
            )
            .await;
            assert_eq!(value::<String>(&mut connection, states).await, "211");
        } else {
            assert_eq!(value::<String>(&mut connection, states).await, "3");
            assert_eq!(keys["a"], expected);
        }
        assert_eq!(keys["b"], [9]);
        assert_eq!(relay.monitor.stats().dead, 1);
        relay.stop().await;
    }
}

/// An event that fails for longer than its budget is dead.
#[tokio::test]
async fn tries_end_with_the_age_budget() {
    let postgres = Postgres::fresh().await;
    let sink = Memory::new("sink");
    sink.judge(|envelope| match envelope.key.as_deref() {
        Some("old") => Err(SinkError::retryable("never").after(Duration::from_millis(10))),
        _ => Ok(Ack::default()),
    });
    let options = quick()
        .max_age(Duration::from_millis(200))
        .on_dead(OnDead::Skip);
    let relay = Running::start(&postgres, &sink, options);
    let mut connection = postgres.connect().await;
    commit(&mut connection, &[payment("old", 1)]).await;
    let dead = "select count(*) = 1 from onlyonce_outbox_parked \
         where state = 3 and attempts > 1 and last_error like '%never'";
    eventually(&mut connection, "it to die", dead).await;
    relay.stop().await;
}

/// The sink is away: the backlog stays where it is, and flows when the sink is back.
#[tokio::test]
async fn a_sink_that_is_away_is_left_alone_and_then_gets_everything() {
    let postgres = Postgres::fresh().await;
    let sink = Memory::new("sink");
    sink.judge(|_| Err(SinkError::retryable("away")));
    let relay = Running::start(&postgres, &sink, quick().window(500));
    let mut connection = postgres.connect().await;
    for number in 0..20 {
        let events: Vec<_> = (0..100).map(|key| payment(key, number)).collect();
        commit(&mut connection, &events).await;
    }
    while relay.monitor.stats().breaker_opened == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    commit(&mut connection, &[payment("late", 1)]).await;
    let parked = value::<i64>(
        &mut connection,
        "select count(*) from onlyonce_outbox_parked",
    )
    .await;
    assert_eq!(
        parked, 0,
        "what failed together stays in the table of events"
    );
    assert!(relay.monitor.stats().in_memory <= 1_500);
    sink.judge(|_| Ok(Ack::default()));
    let taken = within("the whole backlog", sink.reached(2_001)).await;
    for (key, numbers) in first_deliveries(&taken) {
        let all: Vec<u32> = (0..20).collect();
        assert!(key == "late" || numbers == all, "{key}: {numbers:?}");
    }
    relay.stop().await;
    assert_eq!(sink.taken().len(), 2_001);
}
