//! What the demo prints: the table, what it means, and what to try.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use super::pass::Pass;
use crate::table::{Align, Table};

/// The table, and a word about what nobody could know.
pub(crate) fn table(straight: &Pass, guarded: &Pass, colour: bool) -> String {
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
    row(DUPLICATES, &|pass| pass.totals.duplicates.to_string());
    row(TWICE, &|pass| dollars(pass.totals.charged_twice));
    row("answers replayed", &|pass| pass.replayed.to_string());
    row("outcome unknown", &|pass| pass.unknown.to_string());
    if straight.gave_up + guarded.gave_up > 0 {
        row("no answer at all", &|pass| pass.gave_up.to_string());
    }
    let mut text = String::new();
    for (number, line) in table.to_string().lines().enumerate() {
        let line = if colour {
            coloured(line)
        } else {
            line.to_owned()
        };
        let _ = writeln!(text, "  {line}");
        if number == 0 {
            let _ = writeln!(text, "  {}", "─".repeat(line.chars().count()));
        }
    }
    text + "\n" + &meaning(guarded)
}

const DUPLICATES: &str = "duplicates";
const TWICE: &str = "money charged twice";

/// The rows that matter: what went wrong in red, what did not in green.
fn coloured(line: &str) -> String {
    if !line.starts_with(DUPLICATES) && !line.starts_with(TWICE) {
        return line.to_owned();
    }
    let paint = |cell: &str| {
        let harmless = cell.bytes().all(|byte| matches!(byte, b'0' | b'.' | b'$'));
        let colour = if harmless { "32" } else { "31" };
        format!("\x1b[1;{colour}m{cell}\x1b[0m")
    };
    let mut cells = line.rsplitn(2, ' ');
    let (guarded, rest) = (
        cells.next().unwrap_or_default(),
        cells.next().unwrap_or_default(),
    );
    let straight = rest.trim_end();
    let gap = &rest[straight.len()..];
    let (title, straight) = straight.rsplit_once(' ').unwrap_or_default();
    format!("{title} {}{gap} {}", paint(straight), paint(guarded))
}

/// Says only what the service's ledger bears out.
fn meaning(guarded: &Pass) -> String {
    let mut text = String::new();
    if guarded.totals.duplicates > 0 {
        text.push_str("A duplicate came through onlyonce. This is a bug: please report it.\n");
    }
    if guarded.unknown > 0 {
        let _ = writeln!(
            text,
            "{} times the service lost its reply before onlyonce saw it. Nobody can know the outcome then,\n\
             so nothing was sent again: the client got a clear `outcome-unknown` in place of a second charge,\n\
             and an operator who has looked at the service decides (`onlyonce records resolve`).",
            guarded.unknown,
        );
    }
    if guarded.totals.charges == guarded.operations && guarded.totals.duplicates == 0 {
        text.push_str("The service's ledger shows every order charged once.\n");
    }
    text
}

fn dollars(cents: u64) -> String {
    format!("${}.{:02}", cents / 100, cents % 100)
}

/// Lines to type while the demo stays up.
pub(crate) fn invitation(
    program: &str,
    proxy: SocketAddr,
    service: SocketAddr,
    store: &Path,
) -> String {
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
         \x20 # Run this twice: one key, charged once; the second answer is a replay.\n\
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
         \x20 # Look at the records; `records resolve --help` tells how to decide one.\n\
         \x20 {program} records list --store sqlite://{store} --state unknown\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_change_no_text() {
        for line in [
            "duplicates                 60                 0",
            "money charged twice  $1.50  $0.00",
        ] {
            let painted = coloured(line);
            assert!(
                painted.contains("\x1b[1;31m") && painted.contains("\x1b[1;32m"),
                "{painted:?}"
            );
            let plain = painted
                .replace("\x1b[1;31m", "")
                .replace("\x1b[1;32m", "")
                .replace("\x1b[0m", "");
            assert_eq!(plain, line);
        }
        assert_eq!(coloured("client retries  1  2"), "client retries  1  2");
    }
}
