//! The cases: which subjects are compared with each other, and at how many connections.

use crate::subject::Subject::{self, *};

/// Subjects that are compared.
#[derive(Debug)]
pub(crate) struct Case {
    /// As the command line, files and links name it.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) subjects: &'static [Subject],
    pub(crate) connections: &'static [u32],
    /// Where an aim is judged: measured in full. Elsewhere fewer and shorter rounds draw the curve.
    pub(crate) judged_at: &'static [u32],
    pub(crate) beside: Beside,
    /// Whether `cargo xtask test` runs it: it needs nothing from the network.
    pub(crate) smoke: bool,
}

/// What else is measured in a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    Nothing,
    /// In each round, what Postgres alone needs for the commits of one request.
    TwoCommits,
    /// After the rounds, how large the tables are.
    RecordSize,
    /// In each round, how far the sweep comes.
    Sweep,
    /// The memory of the proxy.
    Memory,
    /// The layer by itself.
    Layer,
    /// What an old snapshot does to a relay, and to a queue.
    HeldSnapshot,
    /// How long an event is on its way.
    Latency,
    /// How fast a relay drains a backlog.
    Relay,
    /// How fast it catches up once its sink is back.
    SinkDown,
}

const ALL: &[u32] = &[1, 16, 64, 256, 1024];

/// All cases, in the order of the page.
pub(crate) const CASES: [Case; 14] = [
    Case {
        name: "pass-through",
        title: "Requests that are not guarded",
        subjects: &[Nginx, PassThrough],
        connections: ALL,
        judged_at: &[64],
        beside: Beside::Nothing,
        smoke: true,
    },
    Case {
        name: "fresh",
        title: "First executions: every request has a key of its own",
        subjects: &[PassThrough, Postgres, OneByOne, Sqlite, Memory],
        connections: ALL,
        judged_at: &[64, 256],
        beside: Beside::RecordSize,
        smoke: true,
    },
    Case {
        name: "repeated",
        title: "Repetitions: answers that are replayed, and a storm of retries",
        subjects: &[
            Nginx,
            PassThrough,
            ReplayProcess,
            ReplayRedis,
            ReplayPostgres,
            Storm,
        ],
        connections: ALL,
        judged_at: &[64],
        beside: Beside::Nothing,
        smoke: true,
    },
    Case {
        name: "one-client",
        title: "What a single client waits for, against what Postgres alone needs",
        subjects: &[PassThrough, Postgres],
        connections: &[1],
        judged_at: &[1],
        beside: Beside::TwoCommits,
        smoke: true,
    },
    Case {
        name: "peer",
        title: "First executions through a proxy with the same purpose",
        subjects: &[Postgres, Peer],
        connections: &[64, 256],
        judged_at: &[256],
        beside: Beside::Nothing,
        smoke: false,
    },
    Case {
        name: "sweep",
        title: "First executions while expired records are swept, and while there are none",
        subjects: &[Postgres, SweptPostgres, Sqlite, SweptSqlite],
        connections: &[64],
        judged_at: &[],
        beside: Beside::Sweep,
        smoke: true,
    },
    Case {
        name: "same-transaction",
        title: "A handler's own transaction, with and without the layer that guards it",
        subjects: &[BareTransaction, SameTransaction],
        connections: &[64],
        judged_at: &[64],
        beside: Beside::Nothing,
        smoke: true,
    },
    Case {
        name: "relay",
        title: "A backlog of events, published to Redis Streams",
        subjects: &[],
        connections: &[],
        judged_at: &[],
        beside: Beside::Relay,
        smoke: true,
    },
    Case {
        name: "latency",
        title: "How long an event is on its way from the commit to the consumer of a Redis stream",
        subjects: &[],
        connections: &[],
        judged_at: &[],
        beside: Beside::Latency,
        smoke: true,
    },
    Case {
        name: "sink-down",
        title: "A sink that was away: how a relay catches up while events go on arriving",
        subjects: &[],
        connections: &[],
        judged_at: &[],
        beside: Beside::SinkDown,
        smoke: true,
    },
    Case {
        name: "held-snapshot",
        title: "An outbox while a transaction holds an old snapshot: the relay, and a queue with SKIP LOCKED",
        subjects: &[],
        connections: &[],
        judged_at: &[],
        beside: Beside::HeldSnapshot,
        smoke: true,
    },
    // After all that needs the disk: Postgres goes on writing these for a while.
    Case {
        name: "full-tables",
        title: "First executions in tables that hold a day's records, and in empty ones",
        subjects: &[Postgres, Preloaded],
        connections: &[256],
        judged_at: &[256],
        beside: Beside::Nothing,
        smoke: true,
    },
    Case {
        name: "layer",
        title: "The Tower layer by itself, on the memory store",
        subjects: &[],
        connections: &[],
        judged_at: &[],
        beside: Beside::Layer,
        smoke: false,
    },
    Case {
        name: "memory",
        title: "Resident memory of the proxy",
        subjects: &[],
        connections: &[],
        judged_at: &[],
        beside: Beside::Memory,
        smoke: true,
    },
];
