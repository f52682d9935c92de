use std::time::Duration;

use super::*;

const REFERENCE: &str = include_str!("../../../../config/reference.toml");
const SMALLEST: &str = include_str!("../../../../config/onlyonce.toml");

fn sources(
    file: &str,
    variables: &[(&str, &str)],
    flags: &[(&'static str, &str, &str)],
) -> Sources {
    let mut sources = Sources::default();
    sources.file_text("o.toml", file);
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    sources.variables(variables.iter().map(owned));
    for (flag, key, value) in flags {
        sources.flag(flag, key, *value);
    }
    sources
}

fn faults(sources: Sources) -> Vec<String> {
    let faults = Config::load(sources).expect_err("there are faults");
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn later_layers_win() {
    let file = "[policy]\ndeadline = '10s'\n[upstream]\nurl = 'http://a'";
    let variable = [("ONLYONCE__POLICY__DEADLINE", "20s")];
    let flag = [("--deadline", "policy.deadline", "40s")];
    for (variables, flags, seconds, origin) in [
        (&[][..], &[][..], 10, "o.toml:2"),
        (&variable[..], &[][..], 20, "ONLYONCE__POLICY__DEADLINE"),
        (&variable[..], &flag[..], 40, "--deadline"),
        (&[][..], &flag[..], 40, "--deadline"),
    ] {
        let config = Config::load(sources(file, variables, flags)).expect("no faults");
        assert_eq!(config.policy.deadline, Duration::from_secs(seconds));
        let deadline = |effective: &&Effective| effective.key == "policy.deadline";
        let effective = config.effective.iter().find(deadline).expect("listed");
        let shown = effective.origin.as_ref().map(ToString::to_string);
        assert_eq!(shown.as_deref(), Some(origin));
        assert_eq!(effective.default.as_deref(), Some("1m"));
    }
}

#[test]
fn a_value_that_loses_is_not_looked_at() {
    let file = "[policy]\ndeadline = 10\n[upstream]\nurl = 'http://a'";
    let flags = [("--deadline", "policy.deadline", "40s")];
    assert!(Config::load(sources(file, &[], &flags)).is_ok());
}

#[test]
fn fields_that_http_reads_hold_neither_keys_nor_markers() {
    let policy =
        "[policy]\nkey-header = 'Authorization'\nreplay-markers = ['x-a', 'Content-Length']";
    let found = faults(sources(
        &format!("{policy}\n[upstream]\nurl = 'http://a'"),
        &[],
        &[],
    ));
    let said = |fault: &str| found.iter().any(|found| found == fault);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(said(
        "o.toml:2: policy.key-header: authorization has a meaning of its own in HTTP"
    ));
    assert!(said(
        "o.toml:3: policy.replay-markers: content-length has a meaning of its own in HTTP"
    ));
}

#[test]
fn every_fault_is_found_at_once_with_its_place() {
    let file = "top = 1\n[listen]\naddress = '8080'\n[policy]\ndeadlin = '3s'\nretention = 24\n\
                methods = [['POST']]\n[routes]\nx = 1";
    let variables = [
        ("ONLYONCE__STORE__URL", "mysql://u:hunter2@db"),
        ("ONLYONCE__LOG", "x"),
        ("ONLYONCE__POLICY__REQUIRE_KEY", "yes"),
        ("PATH", "/bin"),
    ];
    let flags = [("--wait", "policy.wait", "soon")];
    let found = faults(sources(file, &variables, &flags));
    let begins = [
        "o.toml:1: top: every setting belongs to a section",
        "o.toml:7: policy.methods: expected a text",
        "ONLYONCE__LOG: expected a name such as",
        "o.toml:3: listen.address: expected an address and a port",
        "upstream.url: not set",
        "ONLYONCE__STORE__URL: store.url: expected sqlite://PATH",
        "ONLYONCE__POLICY__REQUIRE_KEY: policy.require-key: expected true or false",
        "o.toml:6: policy.retention: expected a duration with units",
        "--wait: policy.wait: expected a duration with units",
        "o.toml:5: policy.deadlin: unknown key; did you mean `deadline`?",
        "o.toml:9: routes.x: unknown key",
    ];
    for (found, begin) in found.iter().zip(begins) {
        assert!(found.starts_with(begin), "{found}\n{begin}");
    }
    assert_eq!(found.len(), begins.len(), "{found:#?}");
    assert!(!found.concat().contains("hunter2"));
}

#[test]
fn nothing_is_not_enough() {
    let file = "[upstream]\nurl = 'http://a'\n[listen]\nhead-timeout = '0s'\n\
                [store]\nsweep-batch = 0\n[policy]\nmethods = []\nwait = '0s'";
    assert_eq!(
        faults(sources(file, &[], &[])),
        [
            "o.toml:4: listen.head-timeout: must not be zero or empty",
            "o.toml:6: store.sweep-batch: must not be zero or empty",
            "o.toml:8: policy.methods: must not be zero or empty",
        ]
    );
}

#[test]
fn syntax_faults_name_their_lines() {
    let found = faults(sources("[listen]\naddress = \n[policy\n", &[], &[]));
    assert!(found[0].starts_with("o.toml:2: "), "{found:?}");
    assert!(found[1].starts_with("o.toml:3: "), "{found:?}");
}

#[test]
fn an_unreadable_file_is_a_fault() {
    let mut sources = sources("", &[], &[("--upstream", "upstream.url", "http://a")]);
    sources.file(std::path::Path::new("/nowhere/onlyonce.toml"));
    let found = faults(sources);
    assert!(
        found[0].starts_with("/nowhere/onlyonce.toml: cannot be read"),
        "{found:?}"
    );
}

#[test]
fn a_key_in_the_wrong_section_is_pointed_home() {
    let found = faults(sources(
        "[upstream]\nurl = 'http://a'\ndeadline = '1s'",
        &[],
        &[],
    ));
    assert_eq!(
        found,
        ["o.toml:3: upstream.deadline: unknown key; did you mean `policy.deadline`?"]
    );
}

#[test]
fn the_smallest_file_runs() {
    let config = Config::load(sources(SMALLEST, &[], &[])).expect("no faults");
    assert_eq!(config.store.url, StoreUrl::Sqlite("onlyonce.db".into()));
}

/// The reference is complete: it sets every key, to something that is not the default, and names the
/// default beside it.
#[test]
fn the_reference_has_every_key_and_its_default() {
    let config = Config::load(sources(REFERENCE, &[], &[])).expect("no faults");
    for effective in &config.effective {
        let Effective {
            key,
            value,
            origin,
            default,
        } = effective;
        let Some(Origin::File {
            line: Some(line), ..
        }) = origin
        else {
            panic!("{key} is missing");
        };
        assert_ne!(value, default, "{key} is set to its default");
        let text = REFERENCE.lines().nth(line - 1).unwrap_or_default();
        let comment = text.rsplit_once("# default: ").map(|(_, comment)| comment);
        let named = comment.map(|comment| comment.split(';').next().unwrap_or_default());
        let expected = match default.as_deref() {
            None => "none",
            Some("") => "\"\"",
            Some(default) => default,
        };
        assert_eq!(named, Some(expected), "{key}: {text}");
    }
}

/// Nothing prints a password, or what signs: not a value in force, not `Debug`.
#[test]
fn no_secret_of_the_reference_is_ever_shown() {
    let config = Config::load(sources(REFERENCE, &[], &[])).expect("no faults");
    let shown = format!("{config:?}");
    for secret in ["s3cret", "whsec_"] {
        assert!(REFERENCE.contains(secret));
        assert!(!shown.contains(secret), "{secret}");
    }
}

#[test]
fn a_cache_is_described_by_its_url_and_what_cannot_be_one_is_refused() {
    let file = format!("{SMALLEST}\n[cache]\nurl = 'redis://:s3cret@cache'\ndeadline = '1ms'");
    let config = Config::load(sources(&file, &[], &[])).expect("no faults");
    assert_eq!(config.cache.deadline, Duration::from_millis(1));
    let shown = config.effective.iter().find(|set| set.key == "cache.url");
    assert_eq!(
        shown.and_then(|set| set.value.as_deref()),
        Some("redis://:***@cache")
    );
    let wrong = format!("{SMALLEST}\n[cache]\nurl = 'http://:s3cret@cache'\nttl = '0s'");
    let found = faults(sources(&wrong, &[], &[])).join("\n");
    assert!(found.contains("cache.url: expected redis://"), "{found}");
    assert!(found.contains("cache.ttl: must not be zero"), "{found}");
    assert!(!found.contains("s3cret"), "{found}");
}

#[test]
fn a_cache_without_a_store_to_ask_is_worth_a_warning() {
    let warned = |store: &str| {
        let flags = [
            ("--cache", "cache.url", "redis://cache"),
            ("--store", "store.url", store),
        ];
        let config = Config::load(sources(SMALLEST, &[], &flags)).expect("no faults");
        config
            .warnings()
            .iter()
            .any(|text| text.contains("cache.url"))
    };
    assert!(warned("memory:"));
    assert!(!warned("sqlite://x.db"));
}
