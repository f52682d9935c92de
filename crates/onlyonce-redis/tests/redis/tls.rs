//! `rediss://`: the server must show a certificate of an authority that is trusted.

use onlyonce::store::Generation;
use onlyonce_redis::{RedisCache, Settings, TlsError};
use onlyonce_test::redis::Server;

use crate::support::*;

#[tokio::test]
async fn a_server_is_believed_by_its_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let own = rcgen::generate_simple_self_signed(names).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("cert"), own.cert.pem()).unwrap();
    std::fs::write(path("other"), other.cert.pem()).unwrap();
    std::fs::write(path("empty"), "").unwrap();
    let redis = Server::start_with_tls(&own.cert.pem(), &own.signing_key.serialize_pem()).unwrap();
    let port = redis.tls_port().unwrap();

    let settings = |host: &str| settings(&format!("rediss://{host}:{port}"));
    for host in ["localhost", "127.0.0.1"] {
        let cache = RedisCache::new(settings(host).with_ca_file(path("cert"))).unwrap();
        assert!(cache.connect().await, "{host}");
        kept(&cache, &Generation::random(), &id(1), &entry(20)).await;
    }
    let cache = RedisCache::new(settings("localhost").with_ca_file(path("other"))).unwrap();
    assert!(!cache.connect().await, "signed by somebody else");
    let plain: Settings = format!("redis://localhost:{port}").parse().unwrap();
    assert!(!RedisCache::new(plain).unwrap().connect().await, "no TLS");

    for (file, expected) in [("empty", "authority"), ("missing", "could not read")] {
        let error = RedisCache::new(settings("localhost").with_ca_file(path(file))).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(matches!(
            error,
            TlsError::NoRoots | TlsError::ReadCaFile { .. }
        ));
    }
}
