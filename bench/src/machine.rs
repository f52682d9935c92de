//! The machine, and the versions of what was measured.

use std::fs;
use std::path::Path;
use std::process::Command;

use onlyonce_test::postgres::find_bin_dirs;
use serde::{Deserialize, Serialize};

/// Where figures come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) memory: String,
    pub(crate) kernel: String,
    /// Program and version, as it says it itself.
    pub(crate) programs: Vec<String>,
    /// The commit of this repository; `+` where files differ from it.
    pub(crate) commit: String,
}

impl Machine {
    /// This one.
    pub(crate) fn look(root: &Path) -> Self {
        let postgres = find_bin_dirs().into_iter().next().unwrap_or_default();
        let programs = [
            first_line(Command::new(postgres.join("postgres")).arg("--version")),
            first_line(Command::new("redis-server").arg("--version")),
            first_line(Command::new("nginx").arg("-v")),
            first_line(Command::new("wrk").arg("-v")),
            first_line(Command::new("rustc").arg("--version").current_dir(root)),
        ];
        let git = |args: &[&str]| first_line(Command::new("git").args(args).current_dir(root));
        let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_empty();
        let mark = if changed { "" } else { "+" };
        Self {
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            processor: field("/proc/cpuinfo", "model name"),
            memory: gibibytes(&field("/proc/meminfo", "MemTotal")),
            kernel: first_line(Command::new("uname").args(["-s", "-r", "-m"])),
            programs: programs.into(),
            commit: git(&["rev-parse", "--short", "HEAD"]) + mark,
        }
    }
}

/// The first line that a program prints, on either stream; empty where there is no such program.
fn first_line(command: &mut Command) -> String {
    let Ok(output) = command.output() else {
        return String::new();
    };
    let texts = [output.stdout, output.stderr];
    let mut lines = texts.iter().filter_map(|text| {
        let line = String::from_utf8_lossy(text)
            .lines()
            .next()?
            .trim()
            .to_owned();
        (!line.is_empty()).then_some(line)
    });
    lines.next().unwrap_or_default()
}

/// The first `name : value` of a file in /proc.
fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.unwrap_or_default()
}

fn gibibytes(kibibytes: &str) -> String {
    let number: u64 = kibibytes
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_default();
    format!("{} GiB", (number + (1 << 19)) >> 20)
}
