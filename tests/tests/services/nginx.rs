//! nginx: closes its connections when it likes, and gives every request a number of its own.

use onlyonce_test::client;
use tokio::task::JoinSet;

use crate::curl;
use crate::relay::{Fate, Relay};
use crate::service::{Service, assert_once, guard};

/// Two executions would show: each request gets another `$request_id`.
#[tokio::test(flavor = "multi_thread")]
async fn real_input_nginx_numbers_its_requests() {
    const KEYS: usize = 300;
    let service = Service::nginx("location / { return 201 '$request_id'; }").await;
    let directory = tempfile::tempdir().expect("a directory");
    let proxy = guard(&service, &directory).await;
    let mut clients = JoinSet::new();
    for number in 0..KEYS {
        let addr = proxy.addr();
        clients.spawn(async move {
            let key = format!("key-{number}");
            let first = client::post(addr, "/charges", &key, "amount=100")
                .await
                .expect("an answer");
            let again = client::post(addr, "/charges", &key, "amount=100")
                .await
                .expect("an answer");
            if first.status == 201 {
                assert!(
                    again.is_replay() && again.body == first.body,
                    "{key}: {again:?}"
                );
                assert_eq!(first.body.len(), 32, "{first:?}");
                return Some(key);
            }
            // nginx closed the connection as this was written: nobody knows, so nothing executes again.
            assert_eq!(
                (first.status, again.status),
                (502, 409),
                "{first:?} {again:?}"
            );
            None
        });
    }
    let keys: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    assert!(
        keys.len() > KEYS * 9 / 10,
        "{} of {KEYS} succeeded",
        keys.len()
    );
    let log = service.stop().await;
    assert_once(&log, &keys);
    for number in 0..KEYS {
        let key = format!("key-{number}");
        assert!(
            log.iter().filter(|access| access.key == key).count() <= 1,
            "{key}"
        );
    }
}

/// Files that `curl` uploads over a lossy way arrive once, and whole.
#[tokio::test(flavor = "multi_thread")]
async fn real_input_nginx_keeps_uploads() {
    let service = Service::nginx("location / { root files; dav_methods PUT; }").await;
    let directory = tempfile::tempdir().expect("a directory");
    let proxy = guard(&service, &directory).await;
    let sent: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    let file = directory.path().join("upload");
    std::fs::write(&file, &sent).expect("written");

    let lossy = Relay::to(proxy.addr(), [Fate::LoseAnswer; 2]).await;
    let output = curl::run(&[
        "--silent",
        "--show-error",
        "--include",
        "--fail-with-body",
        "--retry",
        "5",
        "--retry-all-errors",
        "--retry-delay",
        "1",
        "--header",
        "Idempotency-Key: upload",
        // Else the 100 would be the answer that is lost.
        "--header",
        "Expect:",
        "--upload-file",
        file.to_str().expect("text"),
        &format!("{}/stored.bin", lossy.url()),
    ])
    .await;
    assert!(output.status.success(), "{output:?}");
    let (head, _) = curl::last_response(&output);
    assert!(
        head.starts_with("http/1.1 201") && head.contains("idempotent-replayed: true"),
        "{head}"
    );
    assert!(
        std::fs::read(service.path("files/stored.bin")).expect("stored") == sent,
        "the bytes differ"
    );
    let log = service.stop().await;
    assert_once(&log, &["upload".to_owned()]);
    assert_eq!(log[0].status, 201, "204 would be the second: {log:?}");
}
