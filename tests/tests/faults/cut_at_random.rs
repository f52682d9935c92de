//! The connections to Postgres break at random statements: before them, after them, with their late arrival,
//! or in silence; while clients charge and retry.

use std::collections::VecDeque;
use std::time::Duration;

use onlyonce_test::dice::{Dice, duration};
use onlyonce_test::event::Gate;
use onlyonce_test::fault::{Action, PgFault, Rule};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::load::{Load, assert_consistent, number_charges};
use crate::setup::Setup;

/// Successes without which the load was none.
const TOLD_MIN: usize = 50;
const PATIENCE: Duration = Duration::from_secs(60);

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

    let mut late = VecDeque::new();
    let (end, mut faults) = (Instant::now() + duration(7), 0);
    let mut rules = Vec::new();
    // A machine that has much else to do gets more time, or this would prove nothing.
    let is_enough = |now: Instant, told| now >= end && (told > TOLD_MIN || now >= end + PATIENCE);
    while !is_enough(Instant::now(), load.told()) {
        rules.extend(break_something(&fault, &mut dice, &mut late).await);
        faults += 1;
    }
    let charges = load.stop().await;
    // Rules that have not met their statement yet must not meet the checks.
    rules.iter().for_each(Rule::stop);
    // What is still on its way arrives now: nothing may come of it.
    late.iter().for_each(Gate::open);
    let keys = charges.len();
    let told = assert_consistent(&setup.legacy, proxies[0].addr(), charges).await;
    println!(
        "{faults} faults, {keys} keys, {told} successes, {} effects",
        setup.legacy.effects()
    );
    assert!(
        faults > 10 && told > TOLD_MIN,
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

/// Each statement that is late keeps a connection to the server, of which there are not many.
const LATE_MAX: usize = 20;

async fn break_something(
    fault: &PgFault,
    dice: &mut Dice,
    late: &mut VecDeque<Gate>,
) -> Option<Rule> {
    let rule = match dice.below(6) {
        0 => {
            fault.reset_all();
            None
        }
        1 => {
            fault.black_hole();
            tokio::time::sleep(Duration::from_millis(dice.below(300))).await;
            fault.heal();
            None
        }
        2 => Some(fault.on_next(|_| true, Action::CutBefore)),
        3 => {
            if late.len() == LATE_MAX {
                late.pop_front().inspect(Gate::open);
            }
            let gate = Gate::default();
            late.push_back(gate.clone());
            let claims = |sql: &str| sql.contains("onlyonce_records");
            Some(fault.on_next(claims, Action::Late(gate)))
        }
        _ => Some(fault.on_next(|_| true, Action::CutAfter)),
    };
    tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
    rule
}
