//! The connections to Postgres break at random statements: before them, after them, with their late arrival,
//! or in silence; while clients charge and retry.

use std::time::Duration;

use onlyonce_test::event::Gate;
use onlyonce_test::fault::{Action, PgFault};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::load::{Dice, Load, assert_consistent, duration, number_charges};
use crate::setup::Setup;

/// Statements of claims and settlements, and whatever belongs to them.
#[tokio::test(flavor = "multi_thread")]
async fn cut_at_random_statements_under_load() {
    random_cuts("").await;
}

/// Here begin and commit can be cut apart from what is between them.
#[tokio::test(flavor = "multi_thread")]
async fn cut_at_random_statements_under_load_in_pooler_mode() {
    random_cuts("?pooler=transaction").await;
}

async fn random_cuts(parameters: &str) {
    let mut dice = Dice::seeded();
    let setup = Setup::postgres().await;
    number_charges(&setup.legacy);
    let fault = PgFault::start(&setup.store.url()).await;
    let launch = setup.launch_on(&format!("{}{parameters}", fault.url()));
    let launch = launch.arg("--deadline").arg("4s");
    let proxies = [launch.start().await, launch.start().await];
    let addresses = watch::Sender::new(proxies.iter().map(|proxy| proxy.addr()).collect());
    let load = Load::start(6, &addresses.subscribe());

    let late = Gate::default();
    let (end, mut faults) = (Instant::now() + duration(), 0);
    while Instant::now() < end {
        break_something(&fault, &mut dice, &late).await;
        faults += 1;
    }
    let charges = load.stop().await;
    // What is still on its way arrives now: nothing may come of it.
    late.open();
    let keys = charges.len();
    let told = assert_consistent(&setup.legacy, proxies[0].addr(), charges).await;
    println!(
        "{faults} faults, {keys} keys, {told} successes, {} effects",
        setup.legacy.effects()
    );
    assert!(
        faults > 10 && told > 50,
        "too little happened: {faults} faults, {told} successes"
    );
    for proxy in &proxies {
        assert!(
            !proxy.log().iter().any(|line| line.contains("panicked")),
            "{:#?}",
            proxy.log()
        );
    }
}

async fn break_something(fault: &PgFault, dice: &mut Dice, late: &Gate) {
    match dice.below(6) {
        0 => fault.reset_all(),
        1 => {
            fault.black_hole();
            tokio::time::sleep(Duration::from_millis(dice.below(300))).await;
            fault.heal();
        }
        2 => drop(fault.on_next(|_| true, Action::CutBefore)),
        3 => drop(fault.on_next(
            |sql| sql.contains("onlyonce_records"),
            Action::Late(late.clone()),
        )),
        _ => drop(fault.on_next(|_| true, Action::CutAfter)),
    }
    tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
}
