//! The moment that it is all about: the charge is made, and the service is killed before its client has an answer. What a
//! retry does then, form by form.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use onlyonce_test::client::{Raw, Response};
use onlyonce_test::event::within;
use onlyonce_test::postgres::ask::{eventually, value};
use onlyonce_test::postgres::{Cluster, Options, find_bin_dirs};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::process::{Child, Command};

const BODY: &str = r#"{"account":"a","amount":1200}"#;

/// One form's tables, and its parts.
struct Site {
    form: &'static str,
    url: String,
    books: PgConnection,
    ledger: SocketAddr,
    _ledger: Child,
}

fn payments(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_payments"));
    command.args(args).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Waits until somebody listens.
async fn listening(addr: SocketAddr) {
    within("a part to listen", async {
        while Raw::try_connect(addr).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

impl Site {
    async fn of(form: &'static str, cluster: &Cluster) -> Self {
        let database = cluster.url("postgres");
        let mut tables = payments(&["tables", "--form", form, "--database", &database]);
        let made = tables.output().await.unwrap();
        assert!(made.status.success(), "{made:?}");
        let url = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        let options: PgConnectOptions = url.parse().unwrap();
        let ledger = free_address();
        let mut command = payments(&["ledger", "--database", &url]);
        let process = command
            .args(["--listen", &ledger.to_string()])
            .spawn()
            .unwrap();
        listening(ledger).await;
        Self {
            form,
            books: options.connect().await.unwrap(),
            url,
            ledger,
            _ledger: process,
        }
    }

    async fn service(&self) -> (Child, SocketAddr) {
        let addr = free_address();
        let mut command = payments(&["service", "--form", self.form, "--database", &self.url]);
        command.args(["--listen", &addr.to_string()]);
        command.args(["--ledger", &self.ledger.to_string()]);
        let process = command.spawn().unwrap();
        listening(addr).await;
        (process, addr)
    }

    async fn charges(&mut self) -> i64 {
        value(&mut self.books, "select count(*) from payments").await
    }
}

async fn charge(addr: SocketAddr) -> Raw {
    let mut client = Raw::connect(addr).await;
    let request = format!(
        "POST /charges HTTP/1.1\r\nHost: s\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    client.send(request).await;
    client
}

/// The first answer to a retry that is not for the lock of whom was killed.
async fn retry(addr: SocketAddr) -> Response {
    within("the lock to be free", async {
        loop {
            let answer = charge(addr).await.response().await.unwrap();
            if !answer.text().contains("locked") {
                break answer;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_retry_after_the_charge_charges_again_behind_a_lock_and_with_memory() {
    let bin = find_bin_dirs().into_iter().next();
    let bin = bin.expect("a Postgres is installed");
    let cluster = Options::default().fsync(false).start(&bin).unwrap();
    for (form, charges) in [
        ("naive", 2),
        ("lock", 2),
        ("memory", 2),
        ("layer", 1),
        ("same-transaction", 1),
    ] {
        let mut site = Site::of(form, &cluster).await;
        let (mut service, addr) = site.service().await;
        let unanswered = charge(addr).await;
        let charged = "select count(*) = 1 from payments";
        eventually(&mut site.books, "the charge", charged).await;
        service.kill().await.unwrap();
        drop(unanswered);

        let (_service, addr) = site.service().await;
        let again = retry(addr).await;
        assert_eq!(site.charges().await, charges, "{form}");
        let answered = again.status == 201 && again.is_replay() == (charges == 1);
        // The layer says that nobody knows, unless the answer was recorded just before the end.
        let unknown = form == "layer" && again.status == 409;
        assert!(answered || unknown, "{form}: {again:?}");
    }
}
