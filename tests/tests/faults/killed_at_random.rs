//! `kill -9` at random moments, again and again, while clients charge and retry.

use onlyonce_test::dice::{Dice, duration};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::load::{Load, assert_consistent, number_charges};
use crate::setup::{Setup, on_each_store};

on_each_store!(killed_at_random_moments_under_load);

/// Two proxies on one store; one of them is killed every now and then and started anew.
async fn killed_at_random_moments_under_load(setup: Setup) {
    let mut dice = Dice::seeded();
    number_charges(&setup.legacy);
    // A record that is late could be lost by a kill, after its client got the answer. Here no answer goes
    // out before its record.
    let launch = setup.launch().arg("--deadline").arg("2s");
    let launch = launch.env("ONLYONCE__LIMITS__SETTLE_HOLD", "20s");
    let mut proxies = [launch.start().await, launch.start().await];
    let addresses = watch::Sender::new(proxies.iter().map(|proxy| proxy.addr()).collect());
    let load = Load::start(6, &addresses.subscribe());

    let (end, mut kills) = (Instant::now() + duration(7), 0);
    while Instant::now() < end {
        let pause = std::time::Duration::from_millis(dice.below(400));
        tokio::time::sleep(pause).await;
        let victim = usize::try_from(dice.below(2)).expect("zero or one");
        proxies[victim].kill().await;
        proxies[victim] = launch.start().await;
        addresses.send_modify(|addresses: &mut Vec<_>| addresses[victim] = proxies[victim].addr());
        kills += 1;
    }
    let charges = load.stop().await;
    let keys = charges.len();
    let told = assert_consistent(&setup.legacy, proxies[0].addr(), charges).await;
    println!(
        "{kills} kills, {keys} keys, {told} successes, {} effects",
        setup.legacy.effects()
    );
    assert!(
        kills > 3 && told > 50,
        "too little happened: {kills} kills, {told} successes"
    );
}
