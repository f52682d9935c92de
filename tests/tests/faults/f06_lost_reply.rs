//! F6: the connection to the database dies between a commit and its reply; and a statement arrives late,
//! after it was repeated. What is known is told by token and epoch, never by "not found".

use onlyonce_test::event::Gate;
use onlyonce_test::fault::{Action, PgFault};
use onlyonce_test::process::Proxy;
use onlyonce_test::upstream::Reply;

use crate::setup::{Setup, answer, assert_replays};

fn claims(sql: &str) -> bool {
    sql.contains("insert into onlyonce_records") && !sql.contains("settled")
}

fn takes_over(sql: &str) -> bool {
    sql.contains("epoch = epoch + 1")
}

fn completes(sql: &str) -> bool {
    sql.contains("set state = 2")
}

fn releases(sql: &str) -> bool {
    sql.contains("set state = 0")
}

struct Faulty {
    setup: Setup,
    fault: PgFault,
    proxy: Proxy,
}

impl Faulty {
    async fn new() -> Self {
        Self::with("").await
    }

    /// `parameters` of the store's URL.
    async fn with(parameters: &str) -> Self {
        let setup = Setup::postgres().await;
        let fault = PgFault::start(&setup.store.url()).await;
        let proxy = setup
            .launch_on(&format!("{}{parameters}", fault.url()))
            .start()
            .await;
        answer(&proxy, "warm").await;
        Self {
            setup,
            fault,
            proxy,
        }
    }

    /// One request, though `action` happens to the next statement that `matches`: executed once, recorded.
    async fn executes_once(&self, matches: fn(&str) -> bool, action: Action) {
        let rule = self.fault.on_next(matches, action);
        let first = answer(&self.proxy, "key").await;
        rule.happened(1).await;
        assert_eq!(
            (first.status, first.text(), first.is_replay()),
            (200, "done", false)
        );
        assert_replays(&answer(&self.proxy, "key").await, &first);
        assert_eq!(self.setup.legacy.effects_of("key"), 1);
    }
}

#[tokio::test]
async fn f6_the_reply_to_a_claim_is_lost() {
    Faulty::new()
        .await
        .executes_once(claims, Action::CutAfter)
        .await;
}

#[tokio::test]
async fn f6_a_claim_is_lost() {
    Faulty::new()
        .await
        .executes_once(claims, Action::CutBefore)
        .await;
}

#[tokio::test]
async fn f6_the_reply_to_a_settlement_is_lost() {
    Faulty::new()
        .await
        .executes_once(completes, Action::CutAfter)
        .await;
}

#[tokio::test]
async fn f6_a_settlement_is_lost() {
    Faulty::new()
        .await
        .executes_once(completes, Action::CutBefore)
        .await;
}

/// Behind a pooler each statement has a transaction of its own, and COMMIT is what can be cut: of the claim
/// first, then of the settlement.
#[tokio::test]
async fn f6_the_replies_to_commits_are_lost_in_pooler_mode() {
    let faulty = Faulty::with("?pooler=transaction").await;
    let commits = |sql: &str| sql.eq_ignore_ascii_case("commit");
    faulty.executes_once(commits, Action::CutAfter).await;
    let settlement = faulty.fault.on_next(completes, Action::CutBefore);
    let first = answer(&faulty.proxy, "other").await;
    settlement.happened(1).await;
    assert_replays(&answer(&faulty.proxy, "other").await, &first);
    assert_eq!(faulty.setup.legacy.effects_of("other"), 1);
}

#[tokio::test]
async fn f6_the_reply_to_a_release_is_lost() {
    let faulty = Faulty::new().await;
    faulty.setup.legacy.script(Reply::new(429).without_effect());
    let rule = faulty.fault.on_next(releases, Action::CutAfter);
    assert_eq!(answer(&faulty.proxy, "key").await.status, 429);
    rule.happened(1).await;
    let first = answer(&faulty.proxy, "key").await;
    assert_eq!(
        (first.status, first.is_replay()),
        (200, false),
        "the key was free"
    );
    assert_eq!(faulty.setup.legacy.effects_of("key"), 1);
}

#[tokio::test]
async fn f6_a_claim_arrives_late_after_its_repeat_was_completed() {
    let faulty = Faulty::new().await;
    let gate = Gate::default();
    let late = faulty.fault.on_next(claims, Action::Late(gate.clone()));
    let first = answer(&faulty.proxy, "key").await;
    gate.open();
    late.happened(1).await;
    assert_replays(&answer(&faulty.proxy, "key").await, &first);
    assert_eq!(faulty.setup.legacy.effects_of("key"), 1);
}

/// Nobody would settle what a late claim claims: it has to find the row, which a release therefore keeps.
#[tokio::test]
async fn f6_a_claim_arrives_late_after_its_repeat_was_released() {
    let faulty = Faulty::new().await;
    let gate = Gate::default();
    faulty.setup.legacy.script(Reply::new(429).without_effect());
    let late = faulty.fault.on_next(claims, Action::Late(gate.clone()));
    assert_eq!(answer(&faulty.proxy, "key").await.status, 429);
    gate.open();
    late.happened(1).await;
    assert_free(&faulty).await;
}

/// The same for a claim that takes over a free row: it names the epoch that it read, which is over.
#[tokio::test]
async fn f6_a_takeover_arrives_late_after_its_repeat_was_released() {
    let faulty = Faulty::new().await;
    let gate = Gate::default();
    for _ in 0..2 {
        faulty.setup.legacy.script(Reply::new(429).without_effect());
    }
    assert_eq!(answer(&faulty.proxy, "key").await.status, 429);
    let late = faulty.fault.on_next(takes_over, Action::Late(gate.clone()));
    assert_eq!(answer(&faulty.proxy, "key").await.status, 429);
    gate.open();
    late.happened(1).await;
    assert_free(&faulty).await;
}

async fn assert_free(faulty: &Faulty) {
    let states = faulty.setup.list().await;
    assert!(
        states.iter().all(|(_, state)| state != "in-flight"),
        "{states:?}"
    );
    let first = answer(&faulty.proxy, "key").await;
    assert_eq!((first.status, first.is_replay()), (200, false), "{first:?}");
    assert_replays(&answer(&faulty.proxy, "key").await, &first);
    assert_eq!(faulty.setup.legacy.effects_of("key"), 1);
}
