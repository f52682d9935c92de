//! `onlyonce records`.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use onlyonce::store::operator::Resolution;
use onlyonce::{RecordId, StoredState};

use super::settings::StoreArgs;
use super::{Failure, runtime, say};
use crate::records::{self, Outcome, Output};
use crate::store::ChosenStore;

/// A response file is at most this large: as much as a proxy would have recorded, generously.
const RESPONSE_MAX: u64 = 64 << 20;

#[derive(Debug, Args)]
pub(super) struct Records {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List records, newest first
    List {
        /// Only those in this state
        #[arg(long)]
        state: Option<State>,
        /// How many at the most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        #[command(flatten)]
        common: Shared,
    },
    /// Show one record
    Show {
        /// Its id: 32 hexadecimal digits, or urn:onlyonce:record:…
        id: RecordId,
        /// Show the body of the recorded response too
        #[arg(long)]
        body: bool,
        #[command(flatten)]
        common: Shared,
    },
    /// Say what happened to a request of unknown outcome
    Resolve(Resolve),
    /// Free keys whatever their outcome: the next request with each executes
    Forget {
        /// Their ids
        #[arg(required = true)]
        ids: Vec<RecordId>,
        /// Even where a request is in flight, or was until a moment ago
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        common: Shared,
    },
}

#[derive(Debug, Args)]
struct Resolve {
    /// Its id: 32 hexadecimal digits, or urn:onlyonce:record:…
    id: RecordId,
    #[command(flatten)]
    what: What,
    /// Even where a request is in flight, or was until a moment ago
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    common: Shared,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// It did not happen: free the key
    #[arg(long)]
    not_executed: bool,
    /// It happened: answer retries with the HTTP/1.1 response in this file (`-` for standard input):
    /// status line, fields, an empty line, body
    #[arg(long, value_name = "FILE")]
    response: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Shared {
    #[command(flatten)]
    store: StoreArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Free,
    InFlight,
    Completed,
    Unknown,
}

impl Records {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::List {
                state,
                limit,
                common,
            } => common.run(async |store, output| {
                records::list(&store, state.map(State::stored), limit, output).await
            }),
            Action::Show { id, body, common } => {
                common.run(async |store, output| records::show(&store, &id, body, output).await)
            }
            Action::Resolve(resolve) => resolve.run(),
            Action::Forget { ids, force, common } => common.run(async |store, output| {
                records::decide(&store, &ids, &Resolution::Forget, force, output).await
            }),
        }
    }
}

impl Resolve {
    fn run(self) -> Result<(), Failure> {
        let resolution = match &self.what.response {
            None => Resolution::NotExecuted,
            Some(path) => {
                let usage = |error: &dyn std::fmt::Display| {
                    Failure::Usage(format!("--response {}: {error}", path.display()))
                };
                let message = read(path).map_err(|error| usage(&error))?;
                let response = records::parse_response(&message).map_err(|error| usage(&error))?;
                Resolution::Executed(response.encode())
            }
        };
        self.common.run(async |store, output| {
            records::decide(&store, &[self.id], &resolution, self.force, output).await
        })
    }
}

impl Shared {
    /// Opens the store, which must be there already, and prints what `action` found.
    fn run(
        &self,
        action: impl AsyncFnOnce(ChosenStore, Output) -> Result<Outcome, onlyonce::store::StoreError>,
    ) -> Result<(), Failure> {
        let settings = self.store.load()?;
        let output = if self.json {
            Output::Json
        } else {
            Output::Text
        };
        let outcome = runtime()?.block_on(async {
            let store = ChosenStore::existing(&settings).await?;
            action(store, output).await.map_err(Failure::failed)
        })?;
        say(&outcome)
    }
}

impl State {
    const fn stored(self) -> StoredState {
        match self {
            Self::Free => StoredState::Free,
            Self::InFlight => StoredState::InFlight,
            Self::Completed => StoredState::Completed,
            Self::Unknown => StoredState::Unknown,
        }
    }
}

fn read(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    let mut message = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin()
            .take(RESPONSE_MAX + 1)
            .read_to_end(&mut message)?
    } else {
        std::fs::File::open(path)?
            .take(RESPONSE_MAX + 1)
            .read_to_end(&mut message)?
    };
    if u64::try_from(read).is_ok_and(|read| read > RESPONSE_MAX) {
        return Err(std::io::Error::other("larger than 64 MiB"));
    }
    Ok(message)
}
