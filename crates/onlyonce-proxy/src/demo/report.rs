//! What the demo prints: the table, what it means, and what to try.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use super::pass::Pass;
use crate::table::{Align, Table};

/// The table, and a word about what was not known.
pub(crate) fn table(straight: &Pass, guarded: &Pass) -> String {
    let columns = [
        ("", Align::Left),
        ("straight", Align::Right),
        ("through onlyonce", Align::Right),
    ];
    let mut table = Table::new(columns);
    let mut row = |title: &str, value: &dyn Fn(&Pass) -> String| {
        table.row([title.to_owned(), value(straight), value(guarded)]);
    };
    row("operations", &|pass| pass.operations.to_string());
    row("client retries", &|pass| pass.retries.to_string());
    row("charges made", &|pass| pass.totals.charges.to_string());
    row("duplicates", &|pass| pass.totals.duplicates.to_string());
    row("money charged twice", &|pass| {
        dollars(pass.totals.charged_twice)
    });
    row("answers replayed", &|pass| pass.replayed.to_string());
    row("outcome unknown", &|pass| pass.unknown.to_string());
    if straight.gave_up + guarded.gave_up > 0 {
        row("no answer at all", &|pass| pass.gave_up.to_string());
    }
    format!("{table}\n{}", meaning(guarded))
}

fn meaning(guarded: &Pass) -> String {
    let mut text = String::new();
    if guarded.totals.duplicates > 0 {
        text.push_str("A duplicate came through onlyonce. This is a bug: please report it.\n");
    }
    if guarded.unknown > 0 {
        let _ = writeln!(
            text,
            "{} times the service charged and its reply was lost before onlyonce saw it. Nobody can know\n\
             the outcome then, so nothing was sent again: the client got a clear `outcome-unknown` in place\n\
             of a second charge, and an operator decides (`onlyonce records`).",
            guarded.unknown,
        );
    }
    text
}

fn dollars(cents: u64) -> String {
    format!("${}.{:02}", cents / 100, cents % 100)
}

/// Lines to type while the demo stays up.
pub(crate) fn invitation(proxy: SocketAddr, service: SocketAddr, store: &Path) -> String {
    let post = |to: SocketAddr, order: &str, more: &str| {
        format!(
            "curl -i http://{to}/charges -H 'Idempotency-Key: {order}' {more}\\\n       \
             -H 'Content-Type: application/json' -d '{{\"order\": \"{order}\", \"amount\": 1999}}'"
        )
    };
    let again = post(proxy, "mine-1", "");
    let straight = post(service, "mine-2", "");
    let lost = post(proxy, "mine-3", "-H 'X-Demo-Fault: lose-reply' ");
    let store = store.display();
    format!(
        "The service and the proxy stay up; Ctrl-C ends them. In another terminal:\n\
         \n\
         \x20 # Pay twice with one key: charged once, the second answer is a replay.\n\
         \x20 {again}\n\
         \x20 curl http://{service}/charges/mine-1\n\
         \n\
         \x20 # The same straight to the service: charged each time.\n\
         \x20 {straight}\n\
         \x20 curl http://{service}/charges/mine-2\n\
         \n\
         \x20 # The service charges and its reply is lost: the outcome is unknown, a retry charges nothing.\n\
         \x20 {lost}\n\
         \n\
         \x20 # Look at the records.\n\
         \x20 onlyonce records list --store sqlite://{store} --state unknown\n"
    )
}
