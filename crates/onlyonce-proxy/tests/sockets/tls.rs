//! An upstream behind TLS: what is verified, and that evidence is as sound as without.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::StatusCode;
use onlyonce::Evidence;
use onlyonce_proxy::forward::{Forward, ForwardSettings, TlsError};
use onlyonce_test::upstream::{At, Break, Legacy, Reply};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{forward_with, post};

/// A TLS server for `localhost` that passes what it deciphers to a legacy service.
struct Secured {
    addr: SocketAddr,
    legacy: Arc<Legacy>,
    ca_file: PathBuf,
    _dir: TempDir,
}

impl Secured {
    async fn start() -> Self {
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let dir = TempDir::new().unwrap();
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, certified.cert.pem()).unwrap();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], PrivateKeyDer::from(key))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let legacy = Arc::new(Legacy::start().await);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let behind = legacy.addr();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut tls = acceptor.accept(stream).await.ok()?;
                    let mut plain = TcpStream::connect(behind).await.ok()?;
                    copy_bidirectional(&mut tls, &mut plain).await.ok()
                });
            }
        });
        Self {
            addr,
            legacy,
            ca_file,
            _dir: dir,
        }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.addr.port())
    }

    fn forward(&self) -> Forward {
        let ca_file = self.ca_file.clone();
        forward_with(&self.url(), |settings| settings.ca_file = Some(ca_file))
    }
}

#[tokio::test]
async fn a_known_authority_is_trusted_and_connections_are_used_again() {
    let secured = Secured::start().await;
    let forward = secured.forward();
    for key in ["a", "b", "c"] {
        let outcome = post(&forward, key, "a=1").await;
        assert_eq!((outcome.status, outcome.evidence), (StatusCode::OK, None));
        assert_eq!(outcome.body.unwrap(), "done");
    }
    assert_eq!(
        (secured.legacy.effects(), secured.legacy.connections()),
        (3, 1)
    );
}

#[tokio::test]
async fn a_certificate_of_nobody_known_is_not_sent_to() {
    let (secured, other) = (Secured::start().await, Secured::start().await);
    let ca_file = other.ca_file.clone();
    let forward = forward_with(&secured.url(), |settings| settings.ca_file = Some(ca_file));
    let outcome = post(&forward, "k", "a=1").await;
    assert_eq!(outcome.evidence, Some(Evidence::NotSent));
    assert_eq!(outcome.code(), "upstream-unreachable");
    assert_eq!(secured.legacy.requests(), 0);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_sent_to() {
    let secured = Secured::start().await;
    let ca_file = secured.ca_file.clone();
    let url = format!("https://127.0.0.1:{}", secured.addr.port());
    let forward = forward_with(&url, |settings| settings.ca_file = Some(ca_file));
    let outcome = post(&forward, "k", "a=1").await;
    assert_eq!(outcome.evidence, Some(Evidence::NotSent));
    assert_eq!(secured.legacy.requests(), 0);
}

#[tokio::test]
async fn a_server_without_tls_is_not_sent_to() {
    let legacy = Legacy::start().await;
    let url = format!("https://localhost:{}", legacy.addr().port());
    let secured = Secured::start().await;
    let ca_file = secured.ca_file.clone();
    legacy.script(
        Reply::raw("HTTP/1.1 400 Bad Request\r\n\r\n")
            .without_effect()
            .breaks(At::FirstByte, Break::Finish),
    );
    let forward = forward_with(&url, |settings| settings.ca_file = Some(ca_file));
    let outcome = post(&forward, "k", "a=1").await;
    assert_eq!(outcome.evidence, Some(Evidence::NotSent));
    assert_eq!(legacy.effects(), 0);
}

#[tokio::test]
async fn a_break_is_as_unknown_as_without_tls() {
    for how in [Break::Reset, Break::Finish] {
        for (at, effects) in [(At::FirstByte, 0), (At::AfterRequest, 1)] {
            let secured = Secured::start().await;
            let forward = secured.forward();
            assert_eq!(post(&forward, "first", "a=1").await.status, StatusCode::OK);
            secured.legacy.script(Reply::new(200).breaks(at, how));
            let outcome = post(&forward, "k", "a=1").await;
            assert_eq!(outcome.evidence, Some(Evidence::Unknown), "{at:?} {how:?}");
            assert_eq!(secured.legacy.effects_of("k"), effects);
            assert_eq!(secured.legacy.requests(), 2, "never twice");
        }
    }
}

#[tokio::test]
async fn idle_connections_that_close_never_double_a_request() {
    let secured = Secured::start().await;
    let forward = secured.forward();
    for round in 0..200 {
        let first = format!("first-{round}");
        let _ = post(&forward, &first, "a=1").await;
        let key = format!("raced-{round}");
        let sending = tokio::spawn({
            let (forward, key) = (forward.clone(), key.clone());
            async move { post(&forward, &key, "a=1").await }
        });
        for _ in 0..round % 24 {
            tokio::task::yield_now().await;
        }
        secured.legacy.close_idle(if round % 2 == 0 {
            Break::Finish
        } else {
            Break::Reset
        });
        let outcome = sending.await.unwrap();
        let effects = secured.legacy.effects_of(&key);
        match outcome.evidence {
            None => assert_eq!(effects, 1, "{outcome:?}"),
            Some(Evidence::NotSent) => assert_eq!(effects, 0, "{outcome:?}"),
            _ => assert!(effects <= 1, "{outcome:?}"),
        }
    }
}

#[test]
fn what_is_wrong_with_the_authorities_is_said_at_start() {
    let dir = TempDir::new().unwrap();
    let refused = |text: Option<&str>| {
        let path = dir.path().join("ca.pem");
        match text {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => drop(std::fs::remove_file(&path)),
        }
        let mut settings = ForwardSettings::new("https://localhost".parse().unwrap());
        settings.ca_file = Some(path);
        Forward::new(settings).unwrap_err()
    };
    assert!(matches!(
        refused(Some("no certificate")),
        TlsError::EmptyCaFile(_)
    ));
    let missing = refused(None);
    assert!(matches!(missing, TlsError::ReadCaFile { .. }));
    assert!(missing.to_string().contains("ca.pem"), "{missing}");
    // Without TLS nobody asks.
    let mut settings = ForwardSettings::new("http://localhost".parse().unwrap());
    settings.ca_file = Some("/nowhere".into());
    Forward::new(settings).unwrap();
}
