//! `onlyonce outbox`.

use std::time::SystemTime;

use clap::{ArgGroup, Args, Subcommand, value_parser};
use onlyonce_outbox::Error;
use onlyonce_outbox::replay::From;
use uuid::Uuid;

use super::settings::OutboxArgs;
use super::{Failure, runtime, say};
use crate::config::{Outbox as Settings, SinkName};
use crate::outbox::{Decision, Operator, Which};
use crate::records::{Outcome, Output};
use crate::relay::OutboxError;

#[derive(Debug, Args)]
pub(super) struct Outbox {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// What every sink has before it, who works on it, and what holds the tables up
    Status {
        #[command(flatten)]
        shared: Shared,
    },
    /// Look at dead letters, try them again, throw them away
    Dead {
        #[command(subcommand)]
        action: Dead,
    },
    /// Deliver again what a sink has had: because it lost it
    Replay(Replay),
}

#[derive(Debug, Subcommand)]
enum Dead {
    /// List dead letters, the oldest first
    List {
        #[command(flatten)]
        matching: Matching,
        /// Also what is tried again, or waits behind a failed event of its key
        #[arg(long)]
        all: bool,
        /// How many at the most
        #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..))]
        limit: u32,
        #[command(flatten)]
        sink: Sink,
    },
    /// Show one event that is dead, is tried again, or waits
    Show {
        /// Its id
        event: Uuid,
        /// Show the payload too
        #[arg(long)]
        payload: bool,
        #[command(flatten)]
        sink: Sink,
    },
    /// Try dead letters again
    Redrive(Decide),
    /// Throw dead letters away: they are never delivered
    Discard(Decide),
}

/// Which dead letters: none are chosen by saying nothing.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["events", "topic", "key", "all"]))]
struct Decide {
    /// Their ids
    #[arg(value_name = "EVENT_ID", conflicts_with_all = ["topic", "key", "all"])]
    events: Vec<Uuid>,
    #[command(flatten)]
    matching: Matching,
    /// All of the sink
    #[arg(long, conflicts_with_all = ["topic", "key"])]
    all: bool,
    #[command(flatten)]
    sink: Sink,
}

#[derive(Debug, Args)]
struct Matching {
    /// Only those of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only those with this key
    #[arg(long)]
    key: Option<String>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("from").required(true).args(["from_time", "from_sequence"]))]
struct Replay {
    /// From the first event that was appended at this time or later: 2026-11-24T12:00:00Z
    #[arg(long, value_name = "RFC3339", value_parser = moment)]
    from_time: Option<SystemTime>,
    /// From the event of this number on
    #[arg(long, value_name = "N", value_parser = value_parser!(i64).range(1..))]
    from_sequence: Option<i64>,
    #[command(flatten)]
    sink: Sink,
}

/// Whose events.
#[derive(Debug, Args)]
struct Sink {
    /// The sink's name [default: relay.name of the settings]
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
struct Shared {
    #[command(flatten)]
    outbox: OutboxArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn moment(text: &str) -> Result<SystemTime, String> {
    let moment = text.parse::<jiff::Timestamp>().ok();
    let moment = moment.and_then(|moment| SystemTime::try_from(moment).ok());
    moment.ok_or_else(|| "expected a time such as 2026-11-24T12:00:00Z".to_owned())
}

impl Outbox {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::Status { shared } => {
                let settings = shared.outbox.load()?;
                shared.run(&settings, async |operator| operator.status().await)
            }
            Action::Dead { action } => action.run(),
            Action::Replay(replay) => replay.run(),
        }
    }
}

impl Dead {
    fn run(self) -> Result<(), Failure> {
        match self {
            Self::List {
                matching,
                all,
                limit,
                sink,
            } => {
                let which = matching.which();
                sink.run(async |operator, sink| operator.list(sink, &which, all, limit).await)
            }
            Self::Show {
                event,
                payload,
                sink,
            } => sink.run(async |operator, sink| operator.show(sink, event, payload).await),
            Self::Redrive(decide) => decide.run(Decision::Redrive),
            Self::Discard(decide) => decide.run(Decision::Discard),
        }
    }
}

impl Decide {
    fn run(self, decision: Decision) -> Result<(), Failure> {
        let which = if self.events.is_empty() {
            self.matching.which()
        } else {
            Which::Events(self.events)
        };
        let decide = async |operator: &mut Operator, sink: &str| {
            operator.decide(sink, &which, decision).await
        };
        self.sink.run(decide)
    }
}

impl Replay {
    fn run(self) -> Result<(), Failure> {
        let from = match (self.from_time, self.from_sequence) {
            (Some(time), _) => From::Time(time),
            (None, Some(sequence)) => From::Sequence(sequence),
            (None, None) => unreachable!("one of the two is required"),
        };
        self.sink
            .run(async |operator, sink| operator.replay(sink, from).await)
    }
}

impl Matching {
    fn which(self) -> Which {
        Which::Matching {
            topic: self.topic,
            key: self.key,
        }
    }
}

impl Sink {
    /// With the sink that is named here, or else in the settings.
    fn run(
        &self,
        action: impl AsyncFnOnce(&mut Operator, &str) -> Result<Outcome, Error>,
    ) -> Result<(), Failure> {
        let settings = self.shared.outbox.load()?;
        let named = settings.sink.as_ref().map(SinkName::as_str);
        let Some(sink) = self.sink.as_deref().or(named) else {
            return Err(Failure::Usage(
                "which sink? Name it with --sink NAME, or set relay.name; `onlyonce outbox status` shows them"
                    .to_owned(),
            ));
        };
        self.shared
            .run(&settings, async |operator| action(operator, sink).await)
    }
}

impl Shared {
    /// Opens the outbox, which must be there already, and prints what `action` found.
    fn run(
        &self,
        settings: &Settings,
        action: impl AsyncFnOnce(&mut Operator) -> Result<Outcome, Error>,
    ) -> Result<(), Failure> {
        let output = if self.json {
            Output::Json
        } else {
            Output::Text
        };
        let result = runtime()?.block_on(async {
            let mut operator = Operator::connect(&settings.connector(), output).await?;
            let outcome = action(&mut operator).await?;
            operator.close().await;
            Ok(outcome)
        });
        let outcome = result.map_err(|source| {
            let url = settings.url.clone();
            Failure::failed(OutboxError { url, source })
        })?;
        say(&outcome)
    }
}
