//! How much memory the proxy takes: at rest, after load, under many idle connections, and under many
//! large uploads at once. Each is asked of a process of its own, so that none inherits another's peak.

use std::fs;

use onlyonce_test::load::{Outcomes, Uploads, concurrent_uploads, hold_idle_connections};

use crate::Failure;
use crate::results::{Figure, count};
use crate::servers::Servers;
use crate::stand::Stand;
use crate::subject::Subject;
use crate::turns::Effort;

/// How much of each there is.
struct Amounts {
    idle: usize,
    uploads: Uploads,
}

impl Amounts {
    fn of(effort: Effort) -> Self {
        let (idle, count, bytes) = if effort.smoke {
            (100, 20, 1 << 20)
        } else {
            // As many connections, and bodies as large, as are allowed by default.
            (10_000, 1_000, 8 << 20)
        };
        Self {
            idle,
            uploads: Uploads {
                path: "/charges",
                count,
                bytes,
                at_once: true,
            },
        }
    }
}

/// Measures all of it, in MiB of resident memory.
pub(crate) async fn measure(servers: &mut Servers, effort: Effort) -> Result<Vec<Figure>, Failure> {
    let amounts = Amounts::of(effort);
    let mut figures = Vec::new();
    let mut figure = |name: &str, kibibytes: u64| {
        figures.push(Figure::new(name, "MiB", vec![count(kibibytes) / 1024.0]));
    };

    let stand = Stand::set_up(Subject::PassThrough, servers, 1, 0).await?;
    figure("just started", resident(&stand, NOW)?);
    let idle = hold_idle_connections(stand.addr(), amounts.idle).await?;
    let name = format!("{} idle connections", idle.len());
    figure(&name, resident(&stand, NOW)?);
    drop((idle, stand));

    let mut stand = Stand::set_up(Subject::Postgres, servers, 256, 0).await?;
    stand.measure(servers, effort.seconds).await?;
    figure(
        "after fresh keys on 256 connections, Postgres",
        resident(&stand, NOW)?,
    );
    figure("the most during it", resident(&stand, PEAK)?);
    drop(stand);

    let stand = Stand::set_up(Subject::Postgres, servers, 1, 0).await?;
    let outcomes = concurrent_uploads(stand.addr(), amounts.uploads).await;
    let Uploads { count, bytes, .. } = amounts.uploads;
    let name = format!(
        "the most during {count} uploads of {} MiB at once ({})",
        bytes >> 20,
        answers(&outcomes)
    );
    figure(&name, resident(&stand, PEAK)?);
    Ok(figures)
}

const NOW: &str = "VmRSS:";
const PEAK: &str = "VmHWM:";

/// A line of `/proc/PID/status`, in KiB.
fn resident(stand: &Stand, line: &str) -> Result<u64, Failure> {
    let id = stand.onlyonce().ok_or("this is not onlyonce")?;
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let value = status.lines().find_map(|text| text.strip_prefix(line));
    let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
    Ok(number.ok_or("the kernel does not tell the memory of a process")?)
}

fn answers(outcomes: &Outcomes) -> String {
    let statuses = outcomes.by_status.iter();
    let mut answers: Vec<_> = statuses
        .map(|(status, count)| format!("{count} × {status}"))
        .collect();
    if outcomes.unanswered > 0 {
        answers.push(format!("{} unanswered", outcomes.unanswered));
    }
    answers.join(", ")
}
