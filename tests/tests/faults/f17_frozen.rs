//! F17: the owner of a claim is frozen for longer than its time, and others go on meanwhile. Thawed, it must
//! neither send what it had not sent, nor pass off as a success what is no longer the record's answer.

use std::time::Duration;

use onlyonce_test::client::{Raw, post_bytes};
use onlyonce_test::process::{Launch, Proxy};
use onlyonce_test::upstream::Reply;

use crate::setup::{
    BODY, PATH, Setup, answer, assert_problem, assert_replays, on_each_store, record,
    retry_while_in_progress,
};

on_each_store!(
    f17_frozen_after_the_claim_while_an_operator_frees_the_key,
    f17_frozen_before_the_forward_while_an_operator_frees_the_key,
    f17_frozen_between_forward_and_record_while_the_key_is_executed_again,
    f17_frozen_between_forward_and_record_while_an_operator_answers,
);

/// Past half of the deadline an owner sends nothing any more.
const HALF_OF_DEADLINE: Duration = Duration::from_millis(1500);

fn launch(setup: &Setup) -> Launch {
    setup.launch().arg("--deadline").arg("3s")
}

/// An owner that is frozen in the middle of a request, its client, and another proxy.
struct Frozen {
    owner: Proxy,
    client: Raw,
    other: Proxy,
    id: String,
}

impl Frozen {
    /// Until the owner's time for sending is over, though not yet that for an answer.
    async fn at(setup: &Setup, failpoint: &str, reply: &'static str) -> Self {
        let stop = format!("{failpoint}=1*stop");
        let (owner, other) = (launch(setup).failpoints(&stop), launch(setup));
        let (owner, other) = tokio::join!(owner.start(), other.start());
        // A connection to the upstream is at hand: a request could be sent on it at once.
        let warm = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut client = Raw::connect(owner.addr()).await;
        client.send(warm).await;
        assert!(client.response().await.is_ok_and(|warm| warm.is_whole()));

        setup.legacy.script(Reply::new(201).body(reply));
        let mut client = Raw::connect(owner.addr()).await;
        client.send(post_bytes(PATH, "key", BODY)).await;
        owner.frozen().await;
        let busy = answer(&other, "key").await;
        assert_problem(&busy, 409, "request-in-progress");
        tokio::time::sleep(HALF_OF_DEADLINE).await;
        Self {
            owner,
            client,
            other,
            id: record(&busy),
        }
    }

    /// What the thawed owner tells its client: never a success.
    async fn thawed(mut self, setup: &Setup) {
        let sent = setup.legacy.requests();
        self.owner.thaw();
        let late = self.client.response().await;
        let success = late
            .as_ref()
            .is_ok_and(|late| late.status < 300 && late.is_whole());
        assert!(!success, "a late answer as a success: {late:?}");
        // Its tasks are done when it has drained.
        assert!(self.owner.terminate().await.success());
        assert_eq!(
            setup.legacy.requests(),
            sent,
            "a thawed owner sends nothing"
        );
    }
}

async fn f17_frozen_after_the_claim_while_an_operator_frees_the_key(setup: Setup) {
    frees(setup, "after_claim").await;
}

async fn f17_frozen_before_the_forward_while_an_operator_frees_the_key(setup: Setup) {
    frees(setup, "before_forward").await;
}

async fn frees(setup: Setup, failpoint: &str) {
    let frozen = Frozen::at(&setup, failpoint, "the only one").await;
    let refused = setup.try_records(["forget", &frozen.id]).await;
    assert!(refused.is_err_and(|said| said.contains("the request is in flight")));
    setup.records(["forget", &frozen.id, "--force"]).await;
    let first = retry_while_in_progress(&frozen.other, "key").await;
    assert_eq!((first.status, first.is_replay()), (201, false));
    frozen.thawed(&setup).await;
    assert_eq!(setup.legacy.effects_of("key"), 1);
    assert_replays(&answer(&launch(&setup).start().await, "key").await, &first);
}

async fn f17_frozen_between_forward_and_record_while_the_key_is_executed_again(setup: Setup) {
    let frozen = Frozen::at(&setup, "after_forward", "first").await;
    // The operator believes, wrongly, that it was not executed; what follows is consistent all the same.
    setup.records(["forget", &frozen.id, "--force"]).await;
    setup.legacy.script(Reply::new(201).body("second"));
    let second = retry_while_in_progress(&frozen.other, "key").await;
    assert_eq!((second.status, second.text()), (201, "second"));
    frozen.thawed(&setup).await;
    assert_eq!(setup.legacy.effects_of("key"), 2);
    assert_replays(&answer(&launch(&setup).start().await, "key").await, &second);
}

async fn f17_frozen_between_forward_and_record_while_an_operator_answers(setup: Setup) {
    let frozen = Frozen::at(&setup, "before_settle", "first").await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("response");
    std::fs::write(&file, "HTTP/1.1 201 Created\r\n\r\nby hand").expect("written");
    let file = file.to_str().expect("text");
    // In flight is not unknown: that takes force.
    let refused = setup
        .try_records(["resolve", &frozen.id, "--response", file])
        .await;
    assert!(refused.is_err_and(|said| said.contains("the request is in flight")));
    setup
        .records(["resolve", &frozen.id, "--response", file, "--force"])
        .await;
    let by_hand = answer(&frozen.other, "key").await;
    assert_eq!(
        (by_hand.status, by_hand.text(), by_hand.is_replay()),
        (201, "by hand", true)
    );
    frozen.thawed(&setup).await;
    assert_eq!(setup.legacy.effects_of("key"), 1);
    assert_replays(
        &answer(&launch(&setup).start().await, "key").await,
        &by_hand,
    );
}
