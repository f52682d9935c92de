//! The outbox as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use onlyonce_outbox::Envelope;
use onlyonce_outbox::dead::{Letter, Parked};
use onlyonce_outbox::replay::Replay;
use onlyonce_outbox::status::{ShardStatus, SinkStatus, Status};
use serde::Serialize;
use uuid::Uuid;

use super::{Decision, behind, owned, retrying};
use crate::records::Output;
use crate::table::{Align, Table};
use crate::text::{hex, json, on_one_line, printable, time};

/// The state of the outbox in JSON. Ages are in seconds.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    sinks: Vec<Sink<'a>>,
    days: Vec<Day<'a>>,
    open_transactions: u64,
    oldest_transaction_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Sink<'a> {
    name: &'a str,
    undelivered: u64,
    oldest_undelivered_seconds: Option<f64>,
    retrying: u64,
    behind: u64,
    oldest_parked_seconds: Option<f64>,
    parked_keys: u64,
    dead: u64,
    /// For how long receivers know repetitions; null for ever.
    dedupe_window_seconds: Option<f64>,
    late: bool,
    relays: u64,
    shards_owned: u64,
    shards: Vec<Shard>,
}

#[derive(Debug, Serialize)]
struct Shard {
    shard: u16,
    undelivered: u64,
    oldest_undelivered_seconds: Option<f64>,
    retrying: u64,
    behind: u64,
    oldest_parked_seconds: Option<f64>,
    dead: u64,
    owner: Option<String>,
    cursor_age_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Day<'a> {
    table: &'a str,
    pinned_by: &'a [String],
}

/// A parked event in JSON.
#[derive(Debug, Serialize)]
struct ParkedEvent<'a> {
    event_id: String,
    sequence: i64,
    topic: &'a str,
    key: Option<&'a str>,
    kind: &'a str,
    state: &'static str,
    attempts: u32,
    first_failed_at: Option<String>,
    last_error: Option<&'a str>,
    payload_bytes: u64,
}

/// A parked event with all that the sink would get, in JSON.
#[derive(Debug, Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    parked: ParkedEvent<'a>,
    shard: u16,
    created_at: String,
    content_type: &'a str,
    headers: &'a BTreeMap<String, String>,
    /// Asked for, and UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    /// Asked for, and not UTF-8: two hexadecimal digits for each byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
}

/// What became of a decision, in JSON.
#[derive(Debug, Serialize)]
struct Decided<'a> {
    sink: &'a str,
    decision: &'static str,
    events: u64,
    not_found: Vec<String>,
}

/// What comes again, in JSON.
#[derive(Debug, Serialize)]
struct Replayed<'a> {
    sink: &'a str,
    first_sequence: Option<i64>,
    events: u64,
}

pub(super) fn status(status: &Status, output: Output) -> String {
    if output == Output::Json {
        return json(&Shown {
            sinks: status.sinks.iter().map(sink).collect(),
            days: status
                .days
                .iter()
                .map(|day| Day {
                    table: &day.table,
                    pinned_by: &day.pinned_by,
                })
                .collect(),
            open_transactions: status.open_transactions,
            oldest_transaction_seconds: status.oldest_transaction.map(seconds),
        });
    }
    let mut text = if status.sinks.is_empty() {
        "no sinks: no relay has ever run here\n".to_owned()
    } else {
        sinks(&status.sinks)
    };
    for sink in status.sinks.iter().filter(|sink| sink.is_late()) {
        let _ = writeln!(text, "\n{}", late(sink));
    }
    let mut days = Table::new([("DAY", Align::Left), ("PINNED BY", Align::Left)]);
    for day in &status.days {
        let pins = match &day.pinned_by[..] {
            [] => "-".to_owned(),
            pins => pins.join(", "),
        };
        days.row([day.table.clone(), on_one_line(&pins)]);
    }
    let _ = write!(
        text,
        "\n{days}\nopen transactions: {}",
        status.open_transactions
    );
    if let Some(age) = status.oldest_transaction {
        let _ = write!(text, ", the oldest for {}", coarse(age));
    }
    text.push('\n');
    text
}

fn sinks(sinks: &[SinkStatus]) -> String {
    let mut table = Table::new([
        ("SINK", Align::Left),
        ("UNDELIVERED", Align::Right),
        ("OLDEST", Align::Right),
        ("RETRYING", Align::Right),
        ("BEHIND", Align::Right),
        ("DEAD", Align::Right),
        ("RELAYS", Align::Right),
        ("SHARDS OWNED", Align::Right),
    ]);
    for sink in sinks {
        let oldest = sink.oldest();
        table.row([
            on_one_line(&sink.name),
            sink.undelivered().to_string(),
            oldest.map_or_else(|| "-".to_owned(), coarse),
            retrying(sink).to_string(),
            behind(sink).to_string(),
            sink.dead().to_string(),
            sink.relays.to_string(),
            format!("{} of {}", owned(sink), sink.shards.len()),
        ]);
    }
    table.to_string()
}

/// What to do about events that wait for too long.
fn late(sink: &SinkStatus) -> String {
    let (oldest, window) = (sink.oldest(), sink.dedupe_window);
    let (oldest, window) = (oldest.unwrap_or_default(), window.unwrap_or_default());
    let advice = if oldest < window {
        "past it they refuse it for ever: give them a larger one before"
    } else {
        "they may refuse it for ever, or take a repetition for new"
    };
    format!(
        "sink {}: the oldest event has waited for {}, and its receivers know repetitions for {}; {advice}",
        on_one_line(&sink.name),
        coarse(oldest),
        coarse(window)
    )
}

fn sink(sink: &SinkStatus) -> Sink<'_> {
    Sink {
        name: &sink.name,
        undelivered: sink.undelivered(),
        oldest_undelivered_seconds: sink.oldest_undelivered().map(seconds),
        retrying: retrying(sink),
        behind: behind(sink),
        oldest_parked_seconds: sink.oldest_parked().map(seconds),
        parked_keys: sink.parked_keys,
        dead: sink.dead(),
        dedupe_window_seconds: sink.dedupe_window.map(seconds),
        late: sink.is_late(),
        relays: sink.relays,
        shards_owned: owned(sink),
        shards: sink.shards.iter().map(shard).collect(),
    }
}

fn shard(shard: &ShardStatus) -> Shard {
    Shard {
        shard: shard.shard,
        undelivered: shard.undelivered,
        oldest_undelivered_seconds: shard.oldest_undelivered.map(seconds),
        retrying: shard.retrying,
        behind: shard.behind,
        oldest_parked_seconds: shard.oldest_parked.map(seconds),
        dead: shard.dead,
        owner: shard.owner.as_ref().map(Uuid::to_string),
        cursor_age_seconds: seconds(shard.cursor_age),
    }
}

pub(super) fn letters(letters: &[Letter], output: Output) -> String {
    match output {
        Output::Json => json(&letters.iter().map(parked).collect::<Vec<_>>()),
        Output::Text if letters.is_empty() => "no dead letters\n".to_owned(),
        Output::Text => {
            let mut table = Table::new([
                ("EVENT", Align::Left),
                ("TOPIC", Align::Left),
                ("KEY", Align::Left),
                ("STATE", Align::Left),
                ("TRIES", Align::Right),
                ("FIRST FAILED", Align::Left),
                ("BYTES", Align::Right),
                ("LAST ERROR", Align::Left),
            ]);
            for letter in letters {
                let none = || "-".to_owned();
                table.row([
                    letter.event_id.to_string(),
                    on_one_line(&letter.topic),
                    letter.key.as_deref().map_or_else(none, on_one_line),
                    state_name(letter.parked).to_owned(),
                    letter.attempts.to_string(),
                    letter.first_failed_at.map_or_else(none, time),
                    letter.payload_len.to_string(),
                    letter.last_error.as_deref().map_or_else(none, on_one_line),
                ]);
            }
            table.to_string()
        }
    }
}

pub(super) fn detail(
    envelope: &Envelope,
    letter: &Letter,
    with_payload: bool,
    output: Output,
) -> String {
    let text = std::str::from_utf8(&envelope.payload).ok();
    if output == Output::Json {
        return json(&Detail {
            parked: parked(letter),
            shard: envelope.shard,
            created_at: time(envelope.created_at),
            content_type: &envelope.content_type,
            headers: &envelope.headers,
            payload: text.filter(|_| with_payload),
            payload_hex: (with_payload && text.is_none()).then(|| hex(&envelope.payload)),
        });
    }
    let none = || "-".to_owned();
    let mut shown = String::new();
    for (name, value) in [
        ("event", envelope.event_id.to_string()),
        ("sequence", envelope.sequence.to_string()),
        ("topic", on_one_line(&envelope.topic)),
        (
            "key",
            envelope.key.as_deref().map_or_else(none, on_one_line),
        ),
        ("kind", on_one_line(&envelope.kind)),
        ("state", state_name(letter.parked).to_owned()),
        ("tries", letter.attempts.to_string()),
        ("created", time(envelope.created_at)),
        ("failed", letter.first_failed_at.map_or_else(none, time)),
        (
            "error",
            letter.last_error.as_deref().map_or_else(none, on_one_line),
        ),
        ("type", on_one_line(&envelope.content_type)),
    ] {
        let _ = writeln!(shown, "{name:<9} {value}");
    }
    for (name, value) in &envelope.headers {
        let _ = writeln!(shown, "{:<9} {name}: {}", "header", on_one_line(value));
    }
    let bytes = envelope.payload.len();
    if with_payload {
        let payload = text.map_or_else(|| hex(&envelope.payload), printable);
        let _ = writeln!(shown, "payload   {bytes} bytes\n\n{payload}");
    } else {
        let _ = writeln!(shown, "payload   {bytes} bytes (--payload shows them)");
    }
    shown
}

pub(super) fn decided(
    sink: &str,
    decision: Decision,
    events: u64,
    missing: &[Uuid],
    output: Output,
) -> String {
    if output == Output::Json {
        return json(&Decided {
            sink,
            decision: match decision {
                Decision::Redrive => "redriven",
                Decision::Discard => "discarded",
            },
            events,
            not_found: missing.iter().map(Uuid::to_string).collect(),
        });
    }
    let letters = match events {
        1 => "dead letter",
        _ => "dead letters",
    };
    let now = match decision {
        Decision::Redrive => "redriven: they are tried again, before what waits behind them",
        Decision::Discard => "discarded: what waited behind them goes on",
    };
    format!("{events} {letters} of sink {} {now}\n", on_one_line(sink))
}

pub(super) fn replay(sink: &str, replay: Option<Replay>, output: Output) -> String {
    if output == Output::Json {
        return json(&Replayed {
            sink,
            first_sequence: replay.map(|replay| replay.first),
            events: replay.map_or(0, |replay| replay.events),
        });
    }
    let sink = on_one_line(sink);
    match replay {
        Some(Replay { first, events, .. }) => format!(
            "{events} events will come again to sink {sink}, from number {first} on, and those that are new\n"
        ),
        None => {
            format!(
                "nothing is there from then on: nothing was changed, and nothing comes again to sink {sink}\n"
            )
        }
    }
}

fn parked(letter: &Letter) -> ParkedEvent<'_> {
    ParkedEvent {
        event_id: letter.event_id.to_string(),
        sequence: letter.sequence,
        topic: &letter.topic,
        key: letter.key.as_deref(),
        kind: &letter.kind,
        state: state_name(letter.parked),
        attempts: letter.attempts,
        first_failed_at: letter.first_failed_at.map(time),
        last_error: letter.last_error.as_deref(),
        payload_bytes: letter.payload_len,
    }
}

/// The names that output uses.
const fn state_name(parked: Parked) -> &'static str {
    match parked {
        Parked::Retry => "retrying",
        Parked::Behind => "behind",
        Parked::Dead => "dead",
        Parked::PassedOver => "dead-passed-over",
        // The library may learn of more.
        _ => "parked",
    }
}

fn seconds(age: Duration) -> f64 {
    age.as_secs_f64()
}

/// For people: 90061 s is `1d1h`.
fn coarse(age: Duration) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let mut rest = age.as_secs();
    let mut parts = Vec::new();
    for (unit, length) in units {
        if rest >= length {
            parts.push(format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    parts.truncate(2);
    if parts.is_empty() {
        return format!("{}ms", age.as_millis());
    }
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most() {
        for (millis, shown) in [
            (0, "0ms"),
            (999, "999ms"),
            (61_500, "1m1s"),
            (90_061_000, "1d1h"),
        ] {
            assert_eq!(coarse(Duration::from_millis(millis)), shown);
        }
    }
}
