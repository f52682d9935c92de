//! What stands between the load generator and the service behind, and is started for one subject.

use std::net::SocketAddr;
use std::path::PathBuf;

use onlyonce_test::postgres::Database;
use onlyonce_test::process::{Launch, Proxy};
use onlyonce_test::redis;
use tempfile::TempDir;

use crate::Failure;
use crate::peer::Peer;
use crate::preload;
use crate::servers::Servers;
use crate::subject::Subject;

/// As many connections are kept to the service behind as any case has clients; nginx does so too.
const IDLE_CONNECTIONS: &str = "1024";

/// Running programs, which end when this is dropped, in this order.
#[derive(Debug)]
pub(super) struct Way {
    /// Where the load goes.
    pub(super) addr: SocketAddr,
    /// Whose CPU time is counted, descendants included.
    pub(super) processes: Vec<(&'static str, u32)>,
    proxy: Option<Proxy>,
    peer: Option<Peer>,
    redis: Option<redis::Server>,
    pub(super) database: Option<Database>,
    /// Of SQLite.
    pub(super) file: Option<PathBuf>,
    directory: TempDir,
}

impl Way {
    pub(super) async fn to(
        subject: Subject,
        servers: &Servers,
        preloaded: u64,
    ) -> Result<Self, Failure> {
        let mut way = Self {
            addr: servers.front.addr(),
            processes: vec![("service", servers.service.id())],
            proxy: None,
            peer: None,
            redis: None,
            database: None,
            file: None,
            directory: tempfile::tempdir()?,
        };
        match subject {
            Subject::Nginx => way.processes.push(("nginx", servers.front.id())),
            Subject::Peer => way.start_peer(servers).await?,
            _ if subject.is_the_service() => way.start_service(subject, servers).await?,
            _ => way.start_onlyonce(subject, servers).await?,
        }
        if let (Subject::Preloaded, Some(database)) = (subject, &way.database) {
            preload::fill(database, preloaded).await?;
        }
        Ok(way)
    }

    async fn start_onlyonce(&mut self, subject: Subject, servers: &Servers) -> Result<(), Failure> {
        let store = self.store(subject, servers).await?;
        let launch = launch(servers, &store);
        let launch = match subject {
            Subject::OneByOne => launch.env("ONLYONCE__STORE__GROUP_COMMIT", "false"),
            Subject::Memory => launch.env("ONLYONCE__STORE__RECORDS_MAX", "10000000"),
            // As soon as there is something to sweep, not once a minute.
            Subject::SweptPostgres | Subject::SweptSqlite => {
                launch.env("ONLYONCE__STORE__SWEEP_INTERVAL", "100ms")
            }
            Subject::ReplayPostgres => launch.env("ONLYONCE__CACHE__MEMORY_MAX", "0B"),
            Subject::ReplayRedis => {
                let redis = self.redis.insert(redis::Server::start()?);
                self.processes
                    .push(("redis", redis.id().ok_or("Redis ended")?));
                launch
                    .env("ONLYONCE__CACHE__MEMORY_MAX", "0B")
                    .env("ONLYONCE__CACHE__URL", &redis.url())
            }
            _ => launch,
        };
        let proxy = launch.start().await;
        self.processes
            .push(("onlyonce", proxy.id().ok_or("onlyonce ended")?));
        self.addr = proxy.addr();
        self.proxy = Some(proxy);
        Ok(())
    }

    /// The service that keeps its payments and its records in one database.
    async fn start_service(&mut self, subject: Subject, servers: &Servers) -> Result<(), Failure> {
        let database = self.store(subject, servers).await?;
        let launch = Launch::of(["serve", &database]);
        let service = launch.program(servers.beside()?).start().await;
        self.addr = service.addr();
        let id = service.id().ok_or("the service ended")?;
        self.processes.retain(|(name, _)| *name != "service");
        self.processes.push(("service", id));
        self.proxy = Some(service);
        Ok(())
    }

    /// The URL of a store of its own.
    async fn store(&mut self, subject: Subject, servers: &Servers) -> Result<String, Failure> {
        if subject.is_on_postgres() {
            let postgres = servers.postgres.id().ok_or("Postgres ended")?;
            self.processes.push(("postgres", postgres));
            let url = servers.postgres.url("postgres");
            let database = self.database.insert(Database::fresh_at(&url).await);
            return Ok(database.url());
        }
        Ok(match subject {
            Subject::Sqlite | Subject::SweptSqlite => {
                let file = self.directory.path().join("onlyonce.db");
                let url = format!("sqlite://{}", file.display());
                self.file = Some(file);
                url
            }
            _ => "memory:".to_owned(),
        })
    }

    async fn start_peer(&mut self, servers: &Servers) -> Result<(), Failure> {
        let redis = redis::Server::start()?;
        let peer = Peer::start(&redis, &servers.service, self.directory.path()).await?;
        self.addr = peer.addr();
        self.processes
            .push(("redis", redis.id().ok_or("Redis ended")?));
        self.processes.push((Peer::PROGRAM, peer.id()?));
        (self.peer, self.redis) = (Some(peer), Some(redis));
        Ok(())
    }
}

fn launch(servers: &Servers, store: &str) -> Launch {
    Launch::serve(["--upstream", &servers.service.url(), "--store", store])
        .program(servers.program.clone())
        // As nginx, which writes no access log here.
        .env("ONLYONCE__LOG__LEVEL", "warn")
        .env("ONLYONCE__UPSTREAM__IDLE_CONNECTIONS_MAX", IDLE_CONNECTIONS)
}
