//! The demo: a legacy payment service and clients that retry, once straight and once through the proxy.
//!
//! Everything is real and runs in this process on loopback: sockets, the proxy as `serve` runs it, the
//! embedded store in a directory that is removed at the end. Replies are lost on both ways: between the
//! clients and whom they talk to, and between the service and whoever called it.

use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};

use onlyonce::BoxError;

mod client;
mod fate;
mod ledger;
mod legacy;
mod pass;
mod report;

pub(crate) use self::fate::Odds;
pub(crate) use self::legacy::Legacy;
use self::pass::Pass;
use crate::app::App;
use crate::config::{Config, Sources};
use crate::signal::Signals;

const OPERATIONS: u32 = 250;

/// How the service behaves.
const SERVICE: Odds = Odds {
    seed: 0x000a_11ce,
    lost: 6,
    late: 6,
};

/// How the way back to the clients behaves.
const WAY_BACK: Odds = Odds {
    seed: 0xb0b5,
    lost: 10,
    late: 0,
};

/// Runs the demo. Returns whether onlyonce kept its promise: no order was charged twice.
///
/// # Errors
/// Where a port, a file or a directory cannot be had.
pub(crate) async fn run(once: bool) -> Result<bool, BoxError> {
    let mut signals = Signals::listen()?;
    tokio::select! {
        biased;
        _ = signals.next() => Ok(true),
        kept = show(once) => kept,
    }
}

async fn show(once: bool) -> Result<bool, BoxError> {
    print(&format!(
        "{OPERATIONS} payments by clients that try again when no answer comes. Some answers are lost or late.\n"
    ));
    let service = Legacy::bind(loopback(), SERVICE).await?;
    let mut straight = tokio::select! {
        pass = Pass::run("straight", OPERATIONS, service.address()?, WAY_BACK) => pass,
        never = service.serve() => match never {},
    };
    straight.totals = service.ledger().totals();

    let service = Legacy::bind(loopback(), SERVICE).await?;
    let directory = tempfile::tempdir()?;
    let store = directory.path().join("onlyonce.db");
    let mut sources = Sources::default();
    sources.flag("demo", "listen.address", loopback().to_string());
    sources.flag(
        "demo",
        "upstream.url",
        format!("http://{}", service.address()?),
    );
    sources.flag("demo", "store.url", format!("sqlite://{}", store.display()));
    let app = App::bind(Config::load(sources)?).await?;
    let proxy = app.address();
    let watch = async {
        let mut guarded = Pass::run("through onlyonce", OPERATIONS, proxy, WAY_BACK).await;
        guarded.totals = service.ledger().totals();
        print(&format!(
            "\n{}\n",
            report::table(&straight, &guarded, colour())
        ));
        if !once {
            print(&report::invitation(
                &program(),
                proxy,
                service.address()?,
                &store,
            ));
            std::future::pending::<()>().await;
        }
        Ok(guarded.totals.duplicates == 0)
    };
    tokio::select! {
        kept = watch => kept,
        ended = app.run(async || std::future::pending().await) => ended.map(|()| false).map_err(Into::into),
        never = service.serve() => match never {},
    }
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Colours are for terminals, and for those who did not ask to be spared (no-color.org).
fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How this program was started, so that the lines to try can be pasted.
fn program() -> String {
    let name = std::env::args_os().next();
    name.map_or_else(
        || "onlyonce".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Prints; a reader that has left is no reason to stop.
fn print(text: &str) {
    let mut stdout = io::stdout();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}
