//! Records as text and as JSON.

use std::fmt::Write;

use bytes::Bytes;
use onlyonce::codec::StoredResponse;
use onlyonce::store::operator::{Detail, Refused, Resolution, Resolved, Summary};
use onlyonce::{RecordId, StoredState, Timestamp};
use serde::Serialize;

use super::Output;
use crate::table::{Align, Table};
use crate::text::{hex, json, printable};

/// A record in JSON.
#[derive(Debug, Serialize)]
struct Record {
    id: String,
    state: &'static str,
    epoch: u32,
    claimed_at: String,
    lease_until: String,
    settled_at: Option<String>,
    expires_at: String,
}

/// A record and its response in JSON.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    record: Record,
    /// `null` where there is none, or none that can be read: `response_error` says why.
    response: Option<Response>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Response {
    status: u16,
    headers: Vec<[String; 2]>,
    /// `null` where the body was too large to keep.
    body_bytes: Option<usize>,
    /// Asked for, and UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// Asked for, and not UTF-8: two hexadecimal digits for each byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_hex: Option<String>,
}

/// What became of a decision, in JSON.
#[derive(Debug, Serialize)]
struct Decided {
    id: String,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

pub(super) fn list(records: &[Summary], output: Output) -> String {
    match output {
        Output::Json => json(&records.iter().map(record).collect::<Vec<_>>()),
        Output::Text if records.is_empty() => "no records\n".to_owned(),
        Output::Text => {
            let mut table = Table::new([
                ("RECORD", Align::Left),
                ("STATE", Align::Left),
                ("EPOCH", Align::Right),
                ("CLAIMED", Align::Left),
                ("SETTLED", Align::Left),
                ("EXPIRES", Align::Left),
            ]);
            for summary in records {
                table.row([
                    summary.id.to_string(),
                    state_name(summary.state).to_owned(),
                    summary.epoch.to_string(),
                    to_the_second(summary.claimed_at),
                    summary
                        .settled_at
                        .map_or_else(|| "-".to_owned(), to_the_second),
                    to_the_second(summary.expires_at),
                ]);
            }
            table.to_string()
        }
    }
}

pub(super) fn detail(detail: &Detail, with_body: bool, output: Output) -> String {
    let response = detail.response.clone().map(StoredResponse::decode);
    match output {
        Output::Json => json(&Shown {
            record: record(&detail.summary),
            response_error: match &response {
                Some(Err(error)) => Some(error.to_string()),
                _ => None,
            },
            response: response
                .and_then(Result::ok)
                .map(|stored| to_json(&stored, with_body)),
        }),
        Output::Text => {
            let mut text = summary_text(&detail.summary);
            match response {
                None if detail.summary.state == StoredState::Completed => {
                    text.push_str("response  missing: retries get `response-unavailable`\n");
                }
                None => {}
                Some(Err(error)) => {
                    let _ = writeln!(text, "response  cannot be read: {error}");
                }
                Some(Ok(stored)) => text.push_str(&response_text(&stored, with_body)),
            }
            text
        }
    }
}

pub(super) fn decided(
    decided: &[(RecordId, Resolved)],
    resolution: &Resolution,
    output: Output,
) -> String {
    if output == Output::Json {
        return json(&decided.iter().map(decided_json).collect::<Vec<_>>());
    }
    let now = match resolution {
        Resolution::Executed(_) => "completed: retries get the response given",
        Resolution::NotExecuted => "free: in a few seconds the next request with the key executes",
        Resolution::Forget => "forgotten: in a few seconds the next request with the key executes",
    };
    let mut text = String::new();
    for (id, resolved) in decided {
        if let Resolved::Done(epoch) = resolved {
            let _ = writeln!(text, "{id}: {now} (epoch {epoch})");
        }
    }
    text
}

fn decided_json((id, resolved): &(RecordId, Resolved)) -> Decided {
    let (result, epoch, reason) = match resolved {
        Resolved::Done(epoch) => ("done", Some(epoch.get()), None),
        Resolved::NotFound => ("not-found", None, None),
        Resolved::Refused(refused) => (
            "refused",
            None,
            Some(match refused {
                Refused::InFlight => "in-flight",
                Refused::RecentlyUnknown => "recently-unknown",
                Refused::NotUnknown => "not-unknown",
            }),
        ),
    };
    Decided {
        id: id.to_string(),
        result,
        epoch,
        reason,
    }
}

/// The names that output uses and `--state` takes.
pub(super) const fn state_name(state: StoredState) -> &'static str {
    match state {
        StoredState::Free => "free",
        StoredState::InFlight => "in-flight",
        StoredState::Completed => "completed",
        StoredState::Unknown => "unknown",
    }
}

fn record(summary: &Summary) -> Record {
    Record {
        id: summary.id.to_string(),
        state: state_name(summary.state),
        epoch: summary.epoch.get(),
        claimed_at: time(summary.claimed_at),
        lease_until: time(summary.lease_until),
        settled_at: summary.settled_at.map(time),
        expires_at: time(summary.expires_at),
    }
}

fn summary_text(summary: &Summary) -> String {
    let settled = summary.settled_at.map_or_else(|| "-".to_owned(), time);
    format!(
        "record    {}\nurn       urn:onlyonce:record:{}\nstate     {}\nepoch     {}\nclaimed   {}\n\
         lease     {}\nsettled   {settled}\nexpires   {}\n",
        summary.id,
        summary.id,
        state_name(summary.state),
        summary.epoch,
        time(summary.claimed_at),
        time(summary.lease_until),
        time(summary.expires_at),
    )
}

fn to_json(stored: &StoredResponse, with_body: bool) -> Response {
    let body = stored.body.as_ref().filter(|_| with_body);
    let text = body.and_then(|body| std::str::from_utf8(body).ok());
    Response {
        status: stored.status.as_u16(),
        headers: lines(stored),
        body_bytes: stored.body.as_ref().map(Bytes::len),
        body: text.map(str::to_owned),
        body_hex: body.filter(|_| text.is_none()).map(|body| hex(body)),
    }
}

fn response_text(stored: &StoredResponse, with_body: bool) -> String {
    let mut text = format!("response  {}\n", stored.status);
    for [name, value] in lines(stored) {
        let _ = writeln!(text, "          {name}: {value}");
    }
    match &stored.body {
        None => text.push_str("body      too large to keep: retries get `response-unavailable`\n"),
        Some(body) if !with_body => {
            let _ = writeln!(text, "body      {} bytes (--body shows them)", body.len());
        }
        Some(body) => {
            let shown = std::str::from_utf8(body).map_or_else(|_| hex(body), printable);
            let _ = writeln!(text, "body      {} bytes\n\n{shown}", body.len());
        }
    }
    text
}

fn lines(stored: &StoredResponse) -> Vec<[String; 2]> {
    let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        [name.to_string(), printable(&value)]
    };
    stored.headers.iter().map(line).collect()
}

/// RFC 3339 in UTC, to the microsecond.
fn time(moment: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(moment.as_micros()).map_or_else(
        // Beyond the year 9999: nobody set that clock on purpose.
        |_| format!("{} µs", moment.as_micros()),
        |moment| moment.to_string(),
    )
}

/// For tables, where more digits only cost room.
fn to_the_second(moment: Timestamp) -> String {
    const SECOND: i64 = 1_000_000;
    let micros = moment.as_micros();
    time(Timestamp::from_micros(micros - micros.rem_euclid(SECOND)))
}
