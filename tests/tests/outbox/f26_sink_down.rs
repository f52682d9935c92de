//! F26: the sink is down for a while, events arrive all the time, and go on arriving while the backlog drains.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use onlyonce_test::dice::{Dice, duration};

use crate::book::Entry;
use crate::endpoint::{Endpoint, Verdict};
use crate::shop::Shop;
use crate::writers::{Habits, Writers};

/// Leisurely: what the relay could deliver meanwhile is a multiple.
const HABITS: Habits = Habits {
    pause: 120,
    favourite: None,
    late: 1,
};

const LONG: Duration = Duration::from_secs(60);

/// From the first delivery after the sink's return to the moment at which nothing waits, twice as many events
/// are delivered as arrive, or more. (How fast that is, the benchmark `sink-down` says.)
#[tokio::test(flavor = "multi_thread")]
async fn f26_a_backlog_drains_twice_as_fast_as_events_arrive_under_load() {
    let mut dice = Dice::seeded();
    let shop = Shop::new().await;
    let endpoint = Endpoint::start().await;
    let mut relay = shop.relay(&endpoint.url()).spawn();
    let writers = Writers::start(&shop, &mut dice, 3, HABITS).await;
    let mut arrived = writers.committed();
    endpoint
        .until("deliveries", |book| book.known.len() > 20)
        .await;

    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    let mut how = dice.split();
    endpoint.judge(move |_| match down.load(Ordering::Relaxed) {
        true if how.percent(50) => Verdict::Break,
        true => Verdict::Refuse(503),
        false => Verdict::Take,
    });
    let before = arrived.borrow().len();
    tokio::time::sleep(duration(3)).await;
    let backlog = |arrived: &Vec<Entry>| arrived.len() > before + 150;
    let _ = arrived.wait_for(backlog).await;
    let taken = endpoint.book().known.len();
    assert!(taken < before + 50, "it was not down");
    is_down.store(false, Ordering::Relaxed);
    // Nobody tells the relay: it asks again, ever more seldom, 30 s apart at the most.
    endpoint
        .until_later(LONG, "the first delivery", |book| book.known.len() > taken)
        .await;
    let from = (arrived.borrow().len(), endpoint.book().known.len());
    endpoint
        .until_later(LONG, "the backlog to be gone", |book| {
            book.known.len() >= arrived.borrow().len()
        })
        .await;
    let to = (arrived.borrow().len(), endpoint.book().known.len());
    let (arrivals, deliveries) = (to.0 - from.0, to.1 - from.1);
    println!("{arrivals} arrived and {deliveries} were delivered");
    assert!(
        deliveries >= 2 * arrivals,
        "{arrivals} arrived and {deliveries} were delivered"
    );

    let committed = writers.stop().await;
    endpoint.has("everything", &committed).await;
    shop.is_level().await;
    endpoint.book().assert_complete(&committed);
    assert!(relay.terminate().await.success());
    assert_eq!(endpoint.book().repetitions(), 0);
}
