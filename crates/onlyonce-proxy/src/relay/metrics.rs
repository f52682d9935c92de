//! The numbers of a relay and of its outbox, as Prometheus reads them.
//!
//! What this relay has done comes from the process; how the outbox is comes from the database, and is the same
//! from every relay. The names are part of the interface.

use std::fmt::{Display, Write};
use std::time::Duration;

use onlyonce_outbox::RelayStats;
use onlyonce_outbox::status::{SinkStatus, Status};

use crate::outbox::{behind, owned, retrying};

/// A kind of number: it only grows, or it goes up and down.
const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

pub(super) fn text(name: &str, stats: &RelayStats, status: Option<&Status>) -> String {
    let mut page = Page::default();
    let sink = Some(name);
    for (metric, help, value) in counts(stats) {
        let metric = format!("onlyonce_relay_{metric}_total");
        page.head(&metric, help, COUNTER);
        page.sample(&metric, "sink", sink, value);
    }
    for (metric, help, value) in levels(stats) {
        let metric = format!("onlyonce_relay_{metric}");
        page.head(&metric, help, GAUGE);
        page.sample(&metric, "sink", sink, value);
    }
    for (metric, help, time) in [
        (
            "publishing_seconds_total",
            "Time that batches took in the sink",
            stats.publishing,
        ),
        (
            "polling_seconds_total",
            "Time that looks for new events took",
            stats.polling,
        ),
    ] {
        page.head(&format!("onlyonce_relay_{metric}"), help, COUNTER);
        let seconds = time.as_secs_f64();
        page.sample(&format!("onlyonce_relay_{metric}"), "sink", sink, seconds);
    }
    page.head(
        "onlyonce_outbox_up",
        "Whether the database said how the outbox is",
        GAUGE,
    );
    page.sample("onlyonce_outbox_up", "", None, u8::from(status.is_some()));
    if let Some(status) = status {
        of_outbox(&mut page, status);
    }
    page.0
}

/// Name, explanation, value.
type Number = (&'static str, &'static str, u64);

/// What only grows.
fn counts(stats: &RelayStats) -> [Number; 14] {
    [
        ("delivered", "Messages that the sink took", stats.delivered),
        (
            "duplicates",
            "Messages that the sink said it had",
            stats.duplicates,
        ),
        (
            "retried",
            "Messages that were sent again after a failure",
            stats.retried,
        ),
        ("failures", "Failed tries", stats.failures),
        (
            "parked",
            "Events parked because of a failure of their own",
            stats.parked,
        ),
        (
            "behind",
            "Events parked behind one of the same key",
            stats.behind,
        ),
        ("dead", "Events that became dead letters", stats.dead),
        ("batches", "Batches sent", stats.batches),
        ("polls", "Looks for new events", stats.polls),
        ("leases_taken", "Shards taken over", stats.leases_taken),
        ("leases_lost", "Shards lost", stats.leases_lost),
        (
            "database_failures",
            "Failures of the database",
            stats.database_failures,
        ),
        (
            "breaker_opened",
            "Times that the sink failed as a whole",
            stats.breaker_opened,
        ),
        (
            "resyncs",
            "Times that a restored database made all come again",
            stats.resyncs,
        ),
    ]
}

/// What goes up and down.
fn levels(stats: &RelayStats) -> [Number; 5] {
    [
        ("shards", "Shards held", stats.shards),
        ("in_memory", "Events in memory", stats.in_memory),
        (
            "open_transactions",
            "Transactions open at the last look",
            stats.open_transactions,
        ),
        (
            "paused_shards",
            "Shards not read: too much waits behind a key",
            stats.paused,
        ),
        (
            "breaker_open",
            "Whether nothing is sent because the sink failed",
            stats.breaker_open,
        ),
    ]
}

fn of_outbox(page: &mut Page, status: &Status) {
    type Read = fn(&SinkStatus) -> u64;
    let numbers: [(&str, &str, Read); 8] = [
        (
            "undelivered",
            "Events neither delivered nor parked",
            SinkStatus::undelivered,
        ),
        (
            "retrying",
            "Events that failed and will be tried again",
            retrying,
        ),
        ("behind", "Events that wait behind one of their key", behind),
        ("dead", "Dead letters", SinkStatus::dead),
        (
            "parked_keys",
            "Keys of which an event failed, or is dead and holds them back",
            |sink| sink.parked_keys,
        ),
        (
            "late",
            "Whether an event waits for longer than half of the receivers' dedupe window",
            |sink| u64::from(sink.is_late()),
        ),
        ("relays", "Relays that live", |sink| sink.relays),
        ("owned_shards", "Shards that a relay works on, of 64", owned),
    ];
    for (metric, help, read) in numbers {
        let name = format!("onlyonce_outbox_{metric}");
        page.head(&name, help, GAUGE);
        for sink in &status.sinks {
            page.sample(&name, "sink", Some(&sink.name), read(sink));
        }
    }
    ages(page, status);
    let name = "onlyonce_outbox_pinned_days";
    page.head(name, "Days of events that this sink has not passed", GAUGE);
    for sink in &status.sinks {
        let pinned = status
            .days
            .iter()
            .filter(|day| day.pinned_by.contains(&sink.name));
        page.sample(name, "sink", Some(&sink.name), pinned.count());
    }
    let name = "onlyonce_outbox_open_transactions";
    page.head(name, "Open transactions with an id in the cluster", GAUGE);
    page.sample(name, "", None, status.open_transactions);
    let name = "onlyonce_outbox_oldest_transaction_seconds";
    page.head(name, "Age of the oldest of them", GAUGE);
    page.sample(name, "", None, seconds(status.oldest_transaction));
}

fn ages(page: &mut Page, status: &Status) {
    type Age = fn(&SinkStatus) -> Option<Duration>;
    let ages: [(&str, &str, Age); 4] = [
        (
            "oldest_undelivered",
            "Age of the oldest event neither delivered nor parked",
            SinkStatus::oldest_undelivered,
        ),
        (
            "oldest_parked",
            "Age of the oldest event that is tried again, or waits behind one of its key",
            SinkStatus::oldest_parked,
        ),
        (
            "dedupe_window",
            "For how long receivers know repetitions; 0 for ever",
            |sink| sink.dedupe_window,
        ),
        (
            "cursor_age",
            "Since when the cursor stands that has stood for the longest; idle ones move once a minute",
            |sink| Some(sink.cursor_age()),
        ),
    ];
    for (metric, help, read) in ages {
        let name = format!("onlyonce_outbox_{metric}_seconds");
        page.head(&name, help, GAUGE);
        for sink in &status.sinks {
            page.sample(&name, "sink", Some(&sink.name), seconds(read(sink)));
        }
    }
}

fn seconds(age: Option<Duration>) -> f64 {
    age.unwrap_or_default().as_secs_f64()
}

/// Text as it grows. Writing to it cannot fail.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, label: &str, labelled: Option<&str>, value: impl Display) {
        let labels = labelled.map_or_else(String::new, |text| {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            format!("{{{label}=\"{text}\"}}")
        });
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_head_and_a_sample() {
        let text = text("a \"b\"", &RelayStats::default(), None);
        assert!(
            text.contains("\nonlyonce_relay_delivered_total{sink=\"a \\\"b\\\"\"} 0\n"),
            "{text}"
        );
        assert!(text.ends_with("\nonlyonce_outbox_up 0\n"), "{text}");
        let heads = text.lines().filter(|line| line.starts_with("# TYPE"));
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(heads.count(), samples.count());
    }
}
