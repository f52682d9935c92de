//! The same requests to all three fronts, and their answers compared whole: every field, every byte.

use std::collections::BTreeSet;

use onlyonce_test::client::Response;
use onlyonce_test::event::Gate;
use onlyonce_test::upstream::Reply;
use serde_json::Value;

use crate::support::*;

/// What was asked, and an answer as it is compared: without the moment, and without the record's id.
type Said = (String, u16, BTreeSet<(String, String)>, Value);

fn said(what: impl Into<String>, answer: &Response) -> Said {
    let fields = answer.fields.iter().filter(|(name, _)| *name != "date");
    let fields = fields.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let mut body = serde_json::from_slice(&answer.body).unwrap_or_else(|_| answer.text().into());
    if let Value::Object(problem) = &mut body {
        problem.remove("instance");
    }
    (what.into(), answer.status, fields.collect(), body)
}

/// Answers that are kept, and what a retry and another request under their keys get.
async fn kept(site: &Site, all: &mut Vec<Said>) {
    for status in [
        200, 201, 202, 204, 301, 303, 400, 402, 404, 409, 412, 422, 451,
    ] {
        let reply = Reply::new(status)
            .field("Location", "/charges/1")
            .field("Set-Cookie", "session=1")
            .field("Content-Type", "text/plain");
        site.legacy.script(reply.body("an answer"));
        let key = format!("k-{status}");
        for (what, body) in [("first", "{}"), ("again", "{}"), ("other", "{ }")] {
            let answer = site.ask(post(&key).body(body)).await;
            all.push(said(format!("{status}, {what}"), &answer));
        }
    }
}

/// Answers that free the key, twice each.
async fn released(site: &Site, all: &mut Vec<Said>) {
    for status in [401, 403, 407, 408, 421, 425, 426, 429, 503] {
        let key = format!("k-{status}");
        for what in ["first", "again"] {
            let reply = Reply::new(status).field("Retry-After", "7");
            site.legacy.script(reply.body("not now").without_effect());
            let answer = site.ask(post(&key)).await;
            all.push(said(format!("{status}, {what}"), &answer));
        }
    }
}

/// Answers of ours.
async fn refused(site: &Site, all: &mut Vec<Said>) {
    let gate = Gate::default();
    site.legacy.script(Reply::new(201).held_at(&gate));
    let mut holder = site.connect().await;
    holder.send(post("held")).await;
    gate.reached(1).await;
    all.push(said("in flight", &site.ask(post("held")).await));
    gate.open();
    let first = holder.response().await.expect("a head");
    all.push(said("held", &first));
    site.legacy.script(Reply::new(201).body("x".repeat(3000)));
    for what in ["too large to keep", "and again"] {
        all.push(said(what, &site.ask(post("large")).await));
    }
    for cookie in ["Cookie: a=1", "Cookie: a=2"] {
        all.push(said(cookie, &site.ask(post("withheld").line(cookie)).await));
    }
    for key in [
        "",
        "\"\"",
        "a, b",
        "\"a\", \"b\"",
        "\"unclosed",
        &"k".repeat(256),
    ] {
        all.push(said(key, &site.ask(post(key)).await));
    }
    let missing = unkeyed("POST", "/charges").body("");
    all.push(said("missing", &site.ask(missing).await));
    let large = post("upload").body("x".repeat(2000));
    all.push(said("too large", &site.ask(large).await));
}

async fn all_said(front: Front) -> Vec<Said> {
    let settings = [
        ("policy.require-key", "true"),
        ("policy.echo-key", "true"),
        ("policy.documentation", "https://shop.example/docs/keys"),
        ("policy.request-max", "1KiB"),
        ("policy.response-max", "1KiB"),
    ];
    let site = Site::with(front, &settings).await;
    let mut all = Vec::new();
    kept(&site, &mut all).await;
    released(&site, &mut all).await;
    refused(&site, &mut all).await;
    let executed = site.legacy.requests();
    all.push((
        format!("{executed} executed"),
        0,
        BTreeSet::new(),
        Value::Null,
    ));
    site.effects().await;
    all
}

#[tokio::test]
async fn all_three_answer_alike_in_every_field() {
    let proxy = all_said(Front::Proxy).await;
    assert!(proxy.len() > 70, "{}", proxy.len());
    for front in [Front::Layer, Front::SameTransaction] {
        for (here, there) in all_said(front).await.iter().zip(&proxy) {
            assert_eq!(here, there, "{front:?}, and the proxy");
        }
    }
}
