//! The processes that a server has started, as the kernel's table has them.

use std::fs;
use std::io;

use rustix::process::{Pid, Signal, kill_process};

/// The children of a process, as far as they have not ended.
pub(super) fn children(parent: u32) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid.and_then(Pid::from_raw)
            && status(pid).is_some_and(|(_, its)| its == parent)
        {
            found.push(pid);
        }
    }
    Ok(found)
}

/// `kill -9`, to a process that may have ended by itself.
pub(super) fn kill(pid: Pid) -> io::Result<()> {
    match kill_process(pid, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a process has ended, waited for or not.
pub(super) fn is_gone(pid: Pid) -> bool {
    status(pid).is_none_or(|(state, _)| state == 'Z' || state == 'X')
}

/// State and parent: `4711 (postgres) S 4700 …`, where the name may hold anything.
fn status(pid: Pid) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    let state = words.next()?.chars().next()?;
    Some((state, words.next()?.parse().ok()?))
}
