//! F26: relays are killed and frozen at random moments, the sink fails one message in a hundred and loses the
//! acknowledgements of others, one key is poison, and transactions commit late, all at the same time.

use std::collections::BTreeSet;
use std::time::Duration;

use onlyonce_test::dice::{Dice, duration};
use onlyonce_test::process::{Launch, Proxy};
use serde_json::Value;
use tokio::time::Instant;

use crate::book::{Book, Entry};
use crate::endpoint::{Endpoint, Message, Verdict};
use crate::shop::{SINK, Shop};
use crate::writers::{Habits, Writers, commit};

const POISON: u64 = 666;
const LEASE: Duration = Duration::from_secs(2);

/// Events whose first try is answered with a failure, and events whose first delivery nobody hears of: one of a
/// hundred each.
fn difficult(mut dice: Dice) -> impl FnMut(&Message) -> Verdict + Send {
    let poison = POISON.to_string();
    move |message| match dice.below(100) {
        _ if message.entry.key == poison => Verdict::Refuse(500),
        0 if message.before == 0 => Verdict::Refuse(500),
        1 if message.before == 0 => Verdict::TakeAndBreak,
        _ => Verdict::Take,
    }
}

/// Two relays, and what happens to them.
struct Relays {
    launch: Launch,
    running: [Proxy; 2],
    /// How often one of them ended its work in the middle.
    ends: usize,
}

impl Relays {
    fn start(launch: Launch) -> Self {
        let running = [launch.spawn(), launch.spawn()];
        Self {
            launch,
            running,
            ends: 0,
        }
    }

    /// One of them is killed and replaced, or frozen, sometimes for longer than its leases last.
    async fn suffer(&mut self, dice: &mut Dice) {
        dice.pause(700).await;
        let victim = usize::from(dice.percent(50));
        self.ends += 1;
        if dice.percent(70) {
            self.running[victim].kill().await;
            dice.pause(300).await;
            self.running[victim] = self.launch.spawn();
            return;
        }
        self.running[victim].freeze();
        let millis = u64::try_from(LEASE.as_millis()).expect("a short time");
        dice.pause(millis * 2).await;
        self.running[victim].thaw();
    }

    async fn stop(mut self) -> usize {
        for relay in &mut self.running {
            assert!(relay.terminate().await.success());
            let log = relay.log();
            assert!(
                !log.iter().any(|line| line.contains("panicked")),
                "{log:#?}"
            );
        }
        self.ends
    }
}

/// Each of them moves its cursors at least so often: 1 000 events, and two pages of 100 are not whole.
fn assert_bounded(book: &Book, ends: usize, unsaid: usize) {
    let again = book.repetitions();
    let bound = ends * (1_000 + 2 * 100) + unsaid;
    assert!(again <= bound, "{again} came again, {ends} ends");
    assert!(book.most_often() <= ends + 2, "{}", book.most_often());
}

#[tokio::test(flavor = "multi_thread")]
async fn f26_relays_killed_and_frozen_under_load() {
    let mut dice = Dice::seeded();
    let shop = Shop::new().await;
    let endpoint = Endpoint::start().await;
    endpoint.judge(difficult(dice.split()));
    let launch = shop
        .relay(&endpoint.url())
        .arg("--lease")
        .arg("2s")
        .env("ONLYONCE__RELAY__PUBLISH_TIMEOUT", "1s")
        .env("ONLYONCE__RELAY__PAGE", "100")
        .env("ONLYONCE__RELAY__MAX_AGE", "1s");
    let mut relays = Relays::start(launch);
    let habits = Habits {
        pause: 20,
        favourite: Some(POISON),
        late: 2,
    };
    let writers = Writers::start(&shop, &mut dice, 6, habits).await;
    let end = Instant::now() + duration(7);
    while Instant::now() < end {
        relays.suffer(&mut dice).await;
    }
    let committed = writers.stop().await;
    let poison = POISON.to_string();
    let (poisoned, others): (Vec<_>, Vec<_>) = committed
        .iter()
        .cloned()
        .partition(|entry| entry.key == poison);
    assert!(
        poisoned.len() > 1 && others.len() > 100 && relays.ends > 0,
        "too little happened"
    );
    endpoint.has("all but the poison", &others).await;
    endpoint.book().assert_complete(&others);
    // Its first event is dead, and its others wait behind that: these and nothing else.
    let exact = [
        ("dead", 1),
        ("behind", poisoned.len() - 1),
        ("retrying", 0),
        ("undelivered", 0),
    ];
    shop.status_is("the poison to be dead, and nothing else", |sink| {
        exact.iter().all(|(state, count)| sink[state] == *count)
    })
    .await;
    let letters = shop
        .outbox(&["dead", "list", "--all", "--limit", "100000", "--sink", SINK])
        .await;
    assert_eq!(
        ids(&letters),
        poisoned.iter().map(|entry| entry.id.clone()).collect()
    );

    endpoint.judge(|_| Verdict::Take);
    shop.outbox(&["dead", "redrive", "--all", "--sink", SINK])
        .await;
    endpoint.has("the poison too", &committed).await;
    shop.is_level().await;
    let ends = relays.stop().await;
    endpoint.book().assert_complete(&committed);
    println!(
        "{ends} ends of relays, {} events, {} came again",
        committed.len(),
        endpoint.book().repetitions()
    );
    assert_bounded(&endpoint.book(), ends, committed.len() / 20);
    nothing_comes_again(&shop, &endpoint, committed).await;
}

fn ids(letters: &Value) -> BTreeSet<String> {
    let letters = letters.as_array().expect("a list").iter();
    letters
        .map(|letter| letter["event_id"].as_str().expect("an id").to_owned())
        .collect()
}

/// After all that, the next relay begins where the last ones were.
async fn nothing_comes_again(shop: &Shop, endpoint: &Endpoint, mut committed: Vec<Entry>) {
    let before = endpoint.book().taken.len();
    let mut relay = shop.relay(&endpoint.url()).spawn();
    committed.extend(commit(&mut shop.connect().await, ["last".to_owned()].into_iter()).await);
    endpoint.has("one more", &committed).await;
    assert!(relay.terminate().await.success());
    assert_eq!(endpoint.book().taken.len(), before + 1);
    endpoint.book().assert_complete(&committed);
}
