//! `rediss://`: the server must show a certificate of an authority that is trusted.

use std::sync::Arc;

use onlyonce_outbox::sinks::RedisStreams;
use onlyonce_outbox::{Event, Sink};
use onlyonce_test::event::within;
use onlyonce_test::redis::Server;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::envelope;

fn trusting(certificate: Option<&CertificateDer<'static>>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificate.cloned());
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[tokio::test]
async fn a_server_is_believed_by_its_certificate() {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let issued = rcgen::generate_simple_self_signed(names).unwrap();
    let (certificate, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
    let server = Server::start_with_tls(&certificate, &key).unwrap();
    let port = server.tls_port().unwrap();
    server.run("CONFIG SET requirepass s3cret").unwrap();
    let batch = [envelope(&Event::new("payments", 1))];
    let sink = |url: &str| RedisStreams::to(url, "/shop").unwrap();
    let own = issued.cert.der();
    for host in ["localhost", "127.0.0.1"] {
        let sink = sink(&format!("rediss://:s3cret@{host}:{port}/2")).tls(trusting(Some(own)));
        for _ in 0..2 {
            within("the batch", sink.publish(&batch)).await[0]
                .as_ref()
                .unwrap();
        }
    }
    for refused in [
        sink(&format!("rediss://:s3cret@localhost:{port}")).tls(trusting(None)),
        // The system does not know it either.
        sink(&format!("rediss://:s3cret@localhost:{port}")),
        sink(&format!("redis://:s3cret@localhost:{port}")),
        sink(&format!("rediss://:wrong@localhost:{port}")).tls(trusting(Some(own))),
    ] {
        let results = within("the batch", refused.publish(&batch)).await;
        let error = results[0].as_ref().unwrap_err();
        assert!(!error.is_dead(), "{error:?}");
        assert!(!format!("{error:?}").contains("s3cret"));
    }
    let length = server
        .run("AUTH s3cret\r\nSELECT 2\r\nXLEN payments")
        .unwrap();
    assert!(length.contains(":4"), "{length}");
}
