use super::*;
use crate::config::{Config, Fault};

const SMALLEST: &str = "[relay]\ndatabase = 'postgres://app:s3cret@db/shop'\nsink = 'https://hooks/x'\nname = 'hooks'\n";

fn sources(file: &str) -> Sources {
    let mut sources = Sources::default();
    sources.file_text("o.toml", file);
    sources
}

fn faults<T: std::fmt::Debug>(loaded: Result<T, Faults>) -> Vec<String> {
    let faults = loaded.expect_err("there are faults");
    faults.iter().map(Fault::to_string).collect()
}

fn relay(file: &str) -> Relay {
    let config = RelayConfig::load(sources(file)).expect("no faults");
    config.relay
}

#[test]
fn a_relay_needs_a_database_a_sink_and_a_name() {
    let found = faults(RelayConfig::load(sources("[relay]\n")));
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].starts_with("relay.database: not set, and store.url is no Postgres"));
    assert!(found[1].starts_with("relay.sink: not set; say where events go"));
    assert!(found[2].starts_with("relay.name: not set; name the sink"));
    let relay = relay(SMALLEST);
    assert_eq!(relay.name.as_str(), "hooks");
    assert_eq!(relay.outbox.url.to_string(), "postgres://app:***@db/shop");
    assert!(!relay.outbox.pooler);
}

#[test]
fn the_database_is_the_stores_where_that_is_one_postgres() {
    let file = |url: &str| {
        format!("[relay]\nsink = 'stdout:'\nname = 'n'\n[store]\nurl = '{url}'\npooler = true")
    };
    let relay = relay(&file("postgres://db/shop"));
    assert_eq!(relay.outbox.url.to_string(), "postgres://db/shop");
    assert!(relay.outbox.pooler, "as the store's");
    let found = faults(RelayConfig::load(sources(&file(
        "postgres://a/shop,postgres://b/shop",
    ))));
    assert!(found[0].starts_with("relay.database: not set, and store.url has several servers"));
    let found = faults(RelayConfig::load(sources(&file("sqlite://x.db"))));
    assert!(found[0].contains("store.url is no Postgres"), "{found:?}");
}

#[test]
fn every_fault_is_found_at_once_and_no_secret_is_shown() {
    let file = "[relay]\ndatabase = 'mysql://u:hunter2@db'\nsink = 'https://u:hunter2@host/'\nname = ''\n\
                secrets = ['hunter2']\nheaders = ['hunter2']\nlease = 15\non-dead = 'hunter2'\nsinc = 'x'\n\
                [rely]\nname = 'x'\n[policy]\nanything = 1\n[store]\nurll = 'x'";
    let found = faults(RelayConfig::load(sources(file)));
    let begins = [
        "o.toml:2: relay.database: expected postgres://",
        "o.toml:3: relay.sink: a webhook's URL has no user in it",
        "o.toml:4: relay.name: expected a name of up to 255 bytes",
        "o.toml:5: relay.secrets: expected a list, each `whsec_`",
        "o.toml:6: relay.headers: expected a list, each `Name: value`",
        "o.toml:7: relay.lease: expected a duration with units",
        "o.toml:8: relay.on-dead: expected one of `block`, `skip`",
        "o.toml:9: relay.sinc: unknown key; did you mean `sink`?",
        "o.toml:11: rely.name: unknown key; did you mean `relay.name`?",
        "o.toml:15: store.urll: unknown key; did you mean `url`?",
    ];
    for (found, begin) in found.iter().zip(begins) {
        assert!(found.starts_with(begin), "{found}\n{begin}");
    }
    assert_eq!(found.len(), begins.len(), "{found:#?}");
    assert!(!found.concat().contains("hunter2"));
}

#[test]
fn each_contradiction_names_its_key() {
    for (line, begin) in [
        (
            "publish-timeout = '14s'",
            "o.toml:5: relay.publish-timeout: a lease of 15s does not outlast a publish",
        ),
        (
            "lease = '2s'",
            "relay.publish-timeout: a lease of 2s does not outlast",
        ),
        (
            "retry-base = '2h'",
            "relay.retry-max: retry: 7200s to 3600s is no range",
        ),
        (
            "max-age = '1h'",
            "o.toml:5: relay.max-age: an event that dies after 3600s would not be tried again",
        ),
        (
            "dedupe-window = '24h'",
            "o.toml:5: relay.dedupe-window: tries go on for 86400s",
        ),
        (
            "poll-max = '5ms'",
            "o.toml:5: relay.poll-max: poll: 10ms to 5ms is no range",
        ),
        (
            "breaker-base = '1m'",
            "relay.breaker-max: breaker: 60s to 30s is no range",
        ),
        (
            "max-age = '8d'",
            "relay.dedupe-window: tries go on for 691200s and receivers know repetitions for 604800s only",
        ),
        (
            "retention = '10m'",
            "o.toml:5: relay.retention: retention must be an hour at least",
        ),
        (
            "persist-every = '999999999d'",
            "o.toml:5: relay.persist-every: 86399999913600s is longer than a thousand years",
        ),
    ] {
        let found = faults(RelayConfig::load(sources(&format!("{SMALLEST}{line}"))));
        assert_eq!(found.len(), 1, "{line}: {found:#?}");
        assert!(found[0].starts_with(begin), "{found:?}\n{begin}");
    }
    // What is allowed is what the relay itself takes.
    for line in [
        "",
        "lease = '8s'",
        "poll-max = '5s'\nbreaker-max = '1h'\npersist-events = 1\nin-memory-max = 1",
        "retention = '0s'",
        "dedupe-window = '25h'",
        "dedupe-window = '0s'\nmax-age = '8d'",
    ] {
        let relay = relay(&format!("{SMALLEST}{line}"));
        let options = relay.timing.options(&relay.sink);
        assert!(options.validate().is_ok(), "{line}");
    }
}

#[test]
fn sinks_are_told_apart_and_shown_without_secrets() {
    use crate::config::value::Setting;
    for (text, shown) in [
        ("stdout:", "stdout:"),
        ("https://hooks.example", "https://hooks.example"),
        ("http://h:8080/", "http://h:8080"),
        ("https://h/T0/s3cret?token=s3cret", "https://h/…"),
        ("redis://:s3cret@r:6380/2", "redis://***@r:6380/2"),
        ("rediss://:s3cret@r", "rediss://***@r"),
        #[cfg(feature = "nats")]
        ("nats://s3cret@n:4222", "nats://***@n:4222"),
        #[cfg(feature = "amqp")]
        ("amqps://u:s3cret@a/shop", "amqps://***@a/shop"),
        #[cfg(feature = "kafka")]
        ("kafka://k:9092,l", "kafka://k:9092,l"),
    ] {
        let sink = SinkUrl::parse(text).expect(text);
        assert_eq!(sink.to_string(), shown);
        assert!(!format!("{sink:?}").contains("s3cret"));
    }
    for text in [
        "",
        "stdout",
        "rediss://r#insecure",
        "kafka://u:p@k",
        "kafka://",
        "https://",
        "https:///x",
        "https://u@h/",
        "redis://r:port",
    ] {
        assert_eq!(SinkUrl::parse(text), None, "{text}");
    }
}

/// What this build has not is named, with what would have it.
#[cfg(not(all(feature = "nats", feature = "amqp", feature = "kafka-tls")))]
#[test]
fn brokers_of_other_builds_are_named() {
    for (sink, feature) in [
        ("nats://n", "nats"),
        ("amqp://a", "amqp"),
        ("kafka://k", "kafka"),
        ("kafkas://k", "kafka-tls"),
    ] {
        let file = format!("[relay]\ndatabase = 'postgres://db/x'\nsink = '{sink}'\nname = 'n'");
        if let Err(faults) = RelayConfig::load(sources(&file)) {
            let text = faults.to_string();
            assert!(
                text.contains(&format!("needs the feature `{feature}`")),
                "{text}"
            );
        }
    }
}

#[test]
fn nothing_shows_a_webhooks_secrets() {
    let file = format!(
        "{SMALLEST}secrets = ['whsec_czNjcmV0LXMzY3JldC1zM2NyZXQh']\nheaders = ['Authorization: s3cret']"
    );
    let config = RelayConfig::load(sources(&file)).expect("no faults");
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("s3cret") && !shown.contains("whsec"),
        "{shown}"
    );
    let values = config
        .effective
        .iter()
        .filter_map(|set| set.value.as_deref());
    let values: Vec<_> = values.collect();
    assert!(values.contains(&"authorization: ***") && values.contains(&"***"));
}

#[test]
fn nothing_shows_the_settings_of_kafka() {
    let file = format!("{SMALLEST}kafka-settings = ['sasl.password = s3cret=']");
    let config = RelayConfig::load(sources(&file)).expect("no faults");
    let setting = &config.relay.broker.kafka_settings[0];
    assert_eq!(
        (&*setting.name, &*setting.value),
        ("sasl.password", "s3cret=")
    );
    assert!(!format!("{config:?}").contains("s3cret"));
    let mut values = config
        .effective
        .iter()
        .filter_map(|set| set.value.as_deref());
    assert!(values.any(|value| value == "sasl.password=***"));
    let mut wrongs = vec!["s3cret"];
    if cfg!(feature = "kafka") {
        wrongs.extend(["acks=s3cret", "sasl.pasword=s3cret"]);
    }
    for wrong in wrongs {
        let file = format!("{SMALLEST}kafka-settings = ['{wrong}']");
        let found = faults(RelayConfig::load(sources(&file)));
        assert!(
            found[0]
                .starts_with("o.toml:5: relay.kafka-settings: expected a list, each `name=value`"),
            "{found:?}"
        );
        assert!(!found[0].contains("s3cret"));
    }
}

#[cfg(feature = "kafka-tls")]
#[test]
fn settings_of_kafka_do_not_contradict_its_url() {
    let plain = SMALLEST.replace("'https://hooks/x'", "'kafkas://k'");
    let file = format!("{plain}kafka-settings = ['security.protocol=plaintext']");
    let found = faults(RelayConfig::load(sources(&file)));
    assert!(found[0].contains("relay.kafka-settings"), "{found:?}");
    assert!(found[0].contains("asks for TLS"), "{found:?}");
}

#[test]
fn a_file_of_secrets_has_one_a_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secrets");
    let file = format!("{SMALLEST}secrets-file = '{}'", path.display());
    let relay = relay(&file);
    let refused = || relay.webhook.all_secrets().expect_err("refused");
    assert!(refused().contains("cannot be read"));
    std::fs::write(&path, "# none\n\n").expect("written");
    assert!(refused().contains("has no secret in it"));
    let good = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    std::fs::write(&path, format!("# two\n{good}\n\n  {good}\r\n")).expect("written");
    assert_eq!(relay.webhook.all_secrets().map(|all| all.len()), Ok(2));
    std::fs::write(&path, format!("{good}\nhunter2\n")).expect("written");
    let why = refused();
    assert!(
        why.contains("line 2: expected `whsec_`") && !why.contains("hunter2"),
        "{why}"
    );
}

#[test]
fn the_proxy_checks_a_relay_that_is_written_and_shows_none_that_is_not() {
    let proxy = "[upstream]\nurl = 'http://a'\n";
    let config = Config::load(sources(proxy)).expect("no faults");
    assert_eq!(config.relay, None);
    assert!(
        !config
            .effective
            .iter()
            .any(|set| set.key.starts_with("relay."))
    );
    let both = Config::load(sources(&format!("{SMALLEST}{proxy}"))).expect("no faults");
    assert_eq!(both.relay.expect("written").name.as_str(), "hooks");
    let found = faults(Config::load(sources(&format!(
        "[relay]\nname = 'x'\n{proxy}"
    ))));
    assert!(
        found
            .iter()
            .any(|fault| fault.starts_with("relay.sink: not set")),
        "{found:?}"
    );
}

#[test]
fn what_is_not_used_is_worth_a_warning() {
    let file = "[relay]\ndatabase = 'postgres://db/shop'\nname = 'n'\n";
    let warnings = |more: &str| relay(&format!("{file}{more}")).warnings().concat();
    assert_eq!(warnings("sink = 'stdout:'"), "");
    assert!(warnings("sink = 'stdout:'\nin-flight-max = 1").contains("for webhooks only"));
    assert!(warnings("sink = 'stdout:'\nreplicas = 1").contains("for Redis only"));
    assert!(warnings("sink = 'stdout:'\non-disk = true").contains("for Redis only"));
    for (sink, is_used) in [
        ("https://h", true),
        ("rediss://r", true),
        ("redis://r", false),
    ] {
        let warnings = warnings(&format!("sink = '{sink}'\nca-file = 'ca.pem'"));
        assert_eq!(!warnings.contains("relay.ca-file"), is_used, "{sink}");
    }
    assert!(warnings("sink = 'stdout:'\ntopic-prefix = 'x'").contains("for Redis, NATS and Kafka"));
    let kafka = "sink = 'stdout:'\nkafka-settings = ['client.id=x']";
    assert!(warnings(kafka).contains("for Kafka only"));
    assert!(warnings("sink = 'stdout:'\nexchange = 'x'").contains("for RabbitMQ only"));
    assert!(warnings("sink = 'http://h'").contains("nobody can tell"));
    assert!(warnings("sink = 'redis://r'").contains("grow for ever"));
}

#[test]
fn operators_need_a_database_only_but_no_slip_is_ignored() {
    let outbox =
        Outbox::load(sources("[relay]\ndatabase = 'postgres://db/shop'")).expect("no faults");
    assert_eq!(outbox.sink, None);
    let slip = "[relay]\ndatabse = 'postgres://test/shop'\n[store]\nurl = 'postgres://live/shop'";
    let found = faults(Outbox::load(sources(slip)));
    assert_eq!(
        found,
        ["o.toml:2: relay.databse: unknown key; did you mean `database`?"]
    );
}
