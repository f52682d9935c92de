//! G: our errors, told apart from the service's.

use onlyonce_test::client::Response;
use onlyonce_test::event::Gate;
use onlyonce_test::upstream::{At, Break, Reply};

use crate::support::*;

/// One of each, by way of real requests. What they must all have is checked by `problem`.
async fn all(site: &Site) -> Vec<(u16, &'static str, Response)> {
    let gate = Gate::default();
    site.legacy.script(Reply::new(201).held_at(&gate));
    let mut holder = site.connect().await;
    holder.send(post("held")).await;
    gate.reached(1).await;
    let in_progress = site.ask(post("held")).await;
    gate.open();
    assert_eq!(holder.response().await.expect("a head").status, 201);

    site.legacy
        .script(Reply::new(201).breaks(At::AfterRequest, Break::Reset));
    let mut loser = site.connect().await;
    loser.send(post("lost")).await;
    let lost = loser.response().await;
    site.legacy.script(Reply::new(201).body("x".repeat(3000)));
    site.ask(post("large")).await;
    site.ask(post("withheld").line("Cookie: a=1")).await;
    let mut all = vec![
        (
            400,
            "idempotency-key-missing",
            site.ask(unkeyed("POST", "/").body("")).await,
        ),
        (400, "idempotency-key-invalid", site.ask(post("a, b")).await),
        (
            422,
            "idempotency-key-reused",
            site.ask(post("held").body("other")).await,
        ),
        (409, "request-in-progress", in_progress),
        (409, "response-unavailable", site.ask(post("large")).await),
        (
            409,
            "replay-withheld",
            site.ask(post("withheld").line("Cookie: a=2")).await,
        ),
        (
            413,
            "body-too-large",
            site.ask(post("k").body("x".repeat(2000))).await,
        ),
    ];
    let unknown = "outcome-unknown";
    match site.shop.front {
        Front::SameTransaction => all.push((500, "rolled-back", lost.expect("an answer"))),
        Front::Layer => all.push((409, unknown, site.ask(post("lost")).await)),
        Front::Proxy => all.extend([
            (502, unknown, lost.expect("an answer")),
            (409, unknown, site.ask(post("lost")).await),
        ]),
    }
    all
}

const PAGE: &str = "https://shop.example/docs/keys";

three_ways!(g1_g2_g3_g4_g5_g6_g11_each_error_says_what_it_is);
async fn g1_g2_g3_g4_g5_g6_g11_each_error_says_what_it_is(front: Front) {
    let settings = [
        ("policy.require-key", "true"),
        ("policy.documentation", PAGE),
        ("policy.proxy-name", "edge"),
        ("policy.request-max", "1KiB"),
        ("policy.response-max", "1KiB"),
    ];
    let site = Site::with(front, &settings).await;
    let mut titles = Vec::new();
    for (status, code, answer) in all(&site).await {
        let members = problem(&answer, status, code);
        let title = members["title"].as_str().expect("a title").to_owned();
        titles.push((code, title));
        assert_eq!(
            answer.fields.get("cache-control"),
            Some("no-store"),
            "G5: {code}"
        );
        assert_eq!(
            answer.fields.get("content-language"),
            Some("en"),
            "G5: {code}"
        );
        assert_eq!(answer.fields.all("date").count(), 1, "{code}");
        assert_eq!(answer.fields.get("vary"), None, "G13: {code}");
        let proxy_status = answer.fields.get("proxy-status").unwrap_or_default();
        assert!(
            proxy_status.starts_with("edge;error="),
            "G6: {code}: {proxy_status:?}"
        );
        let link = answer.fields.get("link").unwrap_or_default();
        let is_about_key = !["body-too-large", "rolled-back"].contains(&code);
        assert_eq!(
            link.starts_with(&format!("<{PAGE}>")),
            is_about_key,
            "G4: {status} {code}"
        );
        let can_help = ["request-in-progress", "rolled-back"].contains(&code);
        assert_eq!(members["retryable"], can_help, "G3: {code}");
        // Of what failed by itself nobody can say when it would not.
        assert_eq!(
            answer.fields.get("retry-after").is_some(),
            code == "request-in-progress",
            "G11: {code}"
        );
        let instance = members["instance"].as_str();
        let has_record = !code.starts_with("idempotency-key-") || code.ends_with("reused");
        assert_eq!(instance.is_some(), has_record, "G1: {code}");
    }
    titles.sort();
    titles.dedup();
    assert_eq!(titles.len(), 8, "G3: one title for each code: {titles:?}");
}

three_ways!(g6_g7_the_services_own_errors_pass_byte_for_byte);
/// G6, G7: an error of the service passes as it is, and is recorded as its answer.
async fn g6_g7_the_services_own_errors_pass_byte_for_byte(front: Front) {
    let site = Site::start(front).await;
    let body = "{\"type\":\"https://shop.example/taken\",\"title\":\"Taken\",\"status\":409,}";
    for status in [409, 422] {
        let reply = Reply::new(status).field("Content-Type", "application/problem+json");
        site.legacy.script(reply.body(body));
        let request = post(format!("k-{status}"));
        let first = site.ask(&request).await;
        assert_eq!((first.status, first.text()), (status, body), "G7");
        assert_eq!(first.fields.get("x-should-retry"), None, "G6");
        assert_eq!(first.fields.get("proxy-status"), None, "G6");
        replayed(&first, &site.ask(&request).await);
        assert_eq!(site.effects_of(&format!("k-{status}")).await, 1);
    }
}

three_ways!(g10_the_form_of_an_error_is_not_negotiated);
async fn g10_the_form_of_an_error_is_not_negotiated(front: Front) {
    let site = Site::start(front).await;
    for line in [
        "Accept: text/html",
        "Accept-Language: de",
        "Accept-Encoding: br",
        "Accept: ",
    ] {
        let answer = site.ask(post("a, b").line(line)).await;
        problem(&answer, 400, "idempotency-key-invalid");
        assert_eq!(answer.fields.get("content-encoding"), None);
    }
}

/// G12: one line for each guarded request, with its outcome.
#[tokio::test]
async fn g12_the_log_counts_outcomes() {
    let settings = [("policy.require-key", "true"), ("log.format", "json")];
    let site = Site::with(Front::Proxy, &settings).await;
    site.legacy.script(Reply::new(429).without_effect());
    site.ask(post("k")).await;
    site.ask(post("k")).await;
    site.ask(post("k")).await;
    site.ask(post("k").body("other")).await;
    site.ask(post("a, b")).await;
    site.ask(unkeyed("POST", "/").body("")).await;
    site.legacy.script(Reply::new(502));
    site.ask(post("lost")).await;
    for outcome in [
        "released",
        "fresh",
        "replayed",
        "reused",
        "key-invalid",
        "key-missing",
        "unknown",
    ] {
        let line = site
            .guard
            .proxy()
            .logged(&format!("\"outcome\":\"{outcome}\""))
            .await;
        let line: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
        assert!(line.to_string().contains("duration_ms"), "G12: {line}");
    }
}
