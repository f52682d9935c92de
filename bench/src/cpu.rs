//! CPU time of processes, with all their descendants, from `/proc`.
//!
//! Counted in ticks of 10 ms: enough over a stretch of seconds. What a child that has ended used is in
//! its parent's count once it was waited for, so nothing is lost when a database backend comes or goes.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::time::Duration;

struct Usage {
    parent: u32,
    own: u64,
    ended_children: u64,
}

/// What a process, its ended children and its living descendants have used.
pub(crate) fn of_tree(root: u32) -> io::Result<Duration> {
    let all: HashMap<u32, Usage> = processes()?;
    let mut ticks = 0;
    for (&id, usage) in &all {
        if descends(&all, id, root) {
            ticks += usage.own + usage.ended_children;
        }
    }
    Ok(duration(ticks))
}

/// What the children of this process that have ended used: the load generator's.
pub(crate) fn of_ended_children() -> io::Result<Duration> {
    let usage = parse(&fs::read_to_string("/proc/self/stat")?);
    usage
        .map(|usage| duration(usage.ended_children))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn processes() -> io::Result<HashMap<u32, Usage>> {
    let ids =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // A process that ended meanwhile is not there any more.
    let found = ids.filter_map(|id: u32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        Some((id, parse(&stat)?))
    });
    Ok(found.collect())
}

fn descends(all: &HashMap<u32, Usage>, mut id: u32, root: u32) -> bool {
    while id != root {
        match all.get(&id) {
            Some(usage) if usage.parent != id => id = usage.parent,
            _ => return false,
        }
    }
    true
}

/// `4711 (name, which may hold anything) S PPID …`
fn parse(stat: &str) -> Option<Usage> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<_> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Usage {
        parent: fields.get(1)?.parse().ok()?,
        own: number(11)? + number(12)?,
        ended_children: number(13)? + number(14)?,
    })
}

fn duration(ticks: u64) -> Duration {
    Duration::from_micros(ticks * 1_000_000 / rustix::param::clock_ticks_per_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_parentheses() {
        let usage = parse("7 (a) b) S 3 7 7 0 -1 4 0 0 0 0 10 20 3 4 20 0 1 0").unwrap();
        assert_eq!((usage.parent, usage.own, usage.ended_children), (3, 30, 7));
    }

    #[test]
    fn this_process_is_found_below_its_parent() {
        let all = processes().unwrap();
        let own = std::process::id();
        let parent = all[&own].parent;
        assert!(descends(&all, own, own) && descends(&all, own, parent));
        assert!(!descends(&all, parent, own));
    }
}
