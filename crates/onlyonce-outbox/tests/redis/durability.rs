//! What is on disk before it counts as taken. The servers of today's distributions are older than that, or newer: what
//! each has to do is tried with the one that is here.

use std::error::Error as _;
use std::time::Duration;

use onlyonce_outbox::sinks::RedisStreams;
use onlyonce_outbox::{Ack, Event, Sink, SinkError};
use onlyonce_test::event::within;
use onlyonce_test::redis::Server;

use super::envelope;

/// One event, with so many replicas that must have it on their disks.
async fn publish(server: &Server, replicas: u32) -> Result<Ack, SinkError> {
    let sink = RedisStreams::to(&server.url(), "/shop").unwrap();
    // With a replica to wait for, long enough for the disk.
    let patience = Duration::from_millis(500) * (1 + 3 * replicas);
    let sink = sink.on_disk(replicas, patience);
    let batch = [envelope(&Event::new("payments", 1))];
    let mut results = within("the batch", sink.publish(&batch)).await;
    results.remove(0)
}

fn length(server: &Server) -> String {
    let answer = server.run("XLEN payments").unwrap();
    answer.lines().next().unwrap().to_owned()
}

/// `WAITAOF` came with 7.2.
fn knows_of_disks(server: &Server) -> bool {
    let info = server.run("INFO server").unwrap();
    let version = info
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"));
    let mut numbers = version
        .unwrap()
        .split('.')
        .map(|number| number.parse::<u32>());
    let mut next = || numbers.next().unwrap().unwrap();
    (next(), next()) >= (7, 2)
}

fn cause(result: Result<Ack, SinkError>) -> String {
    let error = result.unwrap_err();
    assert!(!error.is_dead(), "{error:?}");
    error.source().unwrap().to_string()
}

/// What was taken is there after a crash; from a server that cannot say, nothing is, and nothing is left there.
#[tokio::test]
async fn an_entry_is_on_disk_or_it_is_not_taken() {
    let files = ["--appendonly", "yes", "--appendfsync", "everysec"];
    let mut server = Server::start_with(&files).unwrap();
    if !knows_of_disks(&server) {
        for _ in 0..2 {
            let cause = cause(publish(&server, 0).await);
            assert!(
                cause.contains("too old") && cause.contains("7.2"),
                "{cause}"
            );
        }
        assert_eq!(length(&server), ":0");
        return;
    }
    // Within a second, which is longer than one batch is waited for.
    let taken = async { while publish(&server, 0).await.is_err() {} };
    within("the disk", taken).await;
    server.stop();
    server.launch().unwrap();
    assert_ne!(length(&server), ":0");
    let cause = cause(publish(&server, 1).await);
    assert!(cause.contains("0 replicas"), "{cause}");
}

#[tokio::test]
async fn a_server_without_a_file_says_so_before_anything_is_appended() {
    let server = Server::start().unwrap();
    let cause = cause(publish(&server, 0).await);
    let expected = if knows_of_disks(&server) {
        "appendonly"
    } else {
        "too old"
    };
    assert!(cause.contains(expected), "{cause}");
    assert_eq!(length(&server), ":0");
}
