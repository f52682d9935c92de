//! Throw-away Postgres servers and databases.
//!
//! [`Cluster`] starts a server of its own in a temporary directory, for tests that stop, crash or fail
//! over the server. [`Database`] makes a fresh, empty database in a server that runs already, which is
//! all that most tests need; the server's address is in the environment ([`Server::variable`]).
//!
//! Postgres refuses to run as root, so as root (in containers, usually) the server runs as the account
//! `postgres` or `nobody`, which then owns the directory.
//!
//! ```no_run
//! use onlyonce_test::postgres::{Cluster, find_bin_dirs};
//!
//! let bin = find_bin_dirs().into_iter().next().expect("a Postgres is installed");
//! let cluster = Cluster::start(&bin)?;
//! println!("{}", cluster.url("postgres"));
//! # Ok::<(), std::io::Error>(())
//! ```

mod account;
pub mod ask;
mod binaries;
mod children;
mod cluster;
mod database;

pub use self::binaries::{find_bin_dirs, version};
pub use self::cluster::{Cluster, Options};
pub use self::database::{Database, Server};
pub use rustix::process::Signal;

pub(crate) use self::account::Account;
pub(crate) use self::cluster::send;
