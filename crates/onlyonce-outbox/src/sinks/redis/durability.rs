//! What has to be so, besides `XADD`'s reply, for an entry to count as taken.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value, cmd};

const UNCLEAR: &str = "the server did not say who has it";

/// What is waited for after a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Durability {
    /// Nothing: the replies suffice.
    #[default]
    Reply,
    /// So many replicas have it in memory.
    Replicas(u32, Duration),
    /// The server has it on its disk, and so many replicas on theirs.
    Disks(u32, Duration),
}

impl Durability {
    /// How long is waited, at the most.
    pub(super) fn patience(self) -> Duration {
        match self {
            Self::Reply => Duration::ZERO,
            Self::Replicas(_, patience) | Self::Disks(_, patience) => patience,
        }
    }

    /// What is sent after a batch.
    pub(super) fn command(self) -> Option<Cmd> {
        let mut command = match self {
            Self::Reply => return None,
            Self::Replicas(replicas, _) => cmd("WAIT").arg(replicas).take(),
            Self::Disks(replicas, _) => cmd("WAITAOF").arg(1).arg(replicas).take(),
        };
        // 0 would be for ever.
        let millis = self.patience().as_millis().max(1);
        command.arg(millis.to_string());
        Some(command)
    }

    /// Takes the answer to the [`command`](Self::command) off the end; says why the batch does not count as taken.
    pub(super) fn unmet(self, replies: &mut Vec<RedisResult<Value>>) -> Option<String> {
        let wanted = match self {
            Self::Reply => return None,
            Self::Replicas(wanted, _) | Self::Disks(wanted, _) => i64::from(wanted),
        };
        let replicas = match replies.pop() {
            Some(Err(error)) => return Some(error.to_string()),
            Some(Ok(Value::Int(replicas))) => replicas,
            Some(Ok(Value::Array(disks))) => match disks[..] {
                [Value::Int(0), _] => {
                    return Some("it is not on the server's disk in time".to_owned());
                }
                [_, Value::Int(replicas)] => replicas,
                _ => return Some(UNCLEAR.to_owned()),
            },
            _ => return Some(UNCLEAR.to_owned()),
        };
        (replicas < wanted)
            .then(|| format!("{replicas} replicas have it in time, and {wanted} are wanted"))
    }

    /// Finds out whether the server can do it: nothing was written by this connection, so nothing is waited for.
    pub(super) async fn check(self, connection: &mut MultiplexedConnection) -> Result<(), String> {
        if !matches!(self, Self::Disks(..)) {
            return Ok(());
        }
        let mut nothing = cmd("WAITAOF");
        nothing.arg(1).arg(0).arg(1);
        nothing.exec_async(connection).await.map_err(|error| {
            if error.to_string().contains("unknown command") {
                "the server is too old to say what is on its disk: that takes Redis 7.2 (WAITAOF)"
                    .to_owned()
            } else {
                error.to_string()
            }
        })
    }
}
