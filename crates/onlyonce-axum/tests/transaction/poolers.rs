//! Behind PgBouncer 1.18 in transaction mode, with two connections to the server for all.

use onlyonce_axum::TransactionalLayer;
use onlyonce_test::event::within;
use onlyonce_test::pgbouncer::PgBouncer;
use tokio::task::JoinSet;

use crate::fixture::*;

#[tokio::test]
async fn behind_a_pooler_in_transaction_mode_everything_holds() {
    let site = Site::fresh().await;
    let bouncer = PgBouncer::start(site.database.port(), 2).unwrap();
    let url = site.database.url_at(bouncer.port());
    let apps: Vec<_> = (0..2)
        .map(|_| app(&TransactionalLayer::new(pool(&url, 5)).with_pooler()))
        .collect();
    let mut requests = JoinSet::new();
    for number in 0..120 {
        let app = apps[number % 2].clone();
        // Each key by both, three times.
        let key = format!("k-{}", number % 20);
        requests.spawn(async move { charge_of(&app, &key, 1).await });
    }
    for answer in within("all answers", requests.join_all()).await {
        assert!(matches!(answer.status, 201 | 409), "{answer:?}");
    }
    for key in 0..20 {
        let first = charge_of(&apps[0], &format!("k-{key}"), 1).await;
        let again = charge_of(&apps[1], &format!("k-{key}"), 1).await;
        assert_eq!((first.status, &first.body), (201, &again.body));
        assert!(again.is_replay());
    }
    assert_eq!(site.rows().await, (20, 20, 20));
    for status in [402, 500, 429] {
        let key = format!("s-{status}");
        for app in &apps {
            let answer = post_to(app, &format!("/status/{status}"), &key).await;
            assert_eq!(answer.status, status);
        }
    }
    assert_eq!(site.rows().await, (20, 20, 21));
    site.nothing_is_open().await;
}
