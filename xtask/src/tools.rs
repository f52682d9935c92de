//! The programs that tests and benchmarks need: found on this machine, or installed.

use std::env;
use std::path::{Path, PathBuf};

use onlyonce_test::{nats, postgres, rabbitmq, redis};
use tokio::process::Command;

use crate::{Failure, python};

/// What the programs are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The tests, which also run the benchmarks for a second each.
    Test,
    /// The benchmarks alone.
    Bench,
}

/// A program that comes with the system.
struct Tool {
    name: &'static str,
    package: &'static str,
    found: fn() -> bool,
    benchmarked: bool,
}

const TOOLS: [Tool; 11] = [
    Tool {
        name: "PostgreSQL, the server",
        package: "postgresql",
        found: has_postgres,
        benchmarked: true,
    },
    Tool {
        name: "PgBouncer",
        package: "pgbouncer",
        found: || find("pgbouncer").is_some(),
        benchmarked: false,
    },
    Tool {
        name: "Redis",
        package: "redis-server",
        found: || redis::find().is_some(),
        benchmarked: true,
    },
    Tool {
        name: "NATS",
        package: "nats-server",
        found: || nats::find().is_some(),
        benchmarked: false,
    },
    Tool {
        name: "RabbitMQ",
        package: "rabbitmq-server",
        found: || rabbitmq::find().is_some(),
        benchmarked: false,
    },
    Tool {
        name: "nginx",
        package: "nginx",
        found: || find("nginx").is_some(),
        benchmarked: true,
    },
    Tool {
        name: "wrk",
        package: "wrk",
        found: || find("wrk").is_some(),
        benchmarked: true,
    },
    Tool {
        name: "curl",
        package: "curl",
        found: || find("curl").is_some(),
        benchmarked: false,
    },
    // The client of Kafka is built from its C sources, and so is a wrapper in C++.
    Tool {
        name: "make",
        package: "make",
        found: || find("make").is_some(),
        benchmarked: false,
    },
    Tool {
        name: "a C++ compiler",
        package: "g++",
        found: || find("c++").is_some() || find("g++").is_some(),
        benchmarked: false,
    },
    Tool {
        name: "Python 3 with venv",
        package: "python3-venv",
        found: python::has_venv,
        benchmarked: false,
    },
];

fn has_postgres() -> bool {
    !postgres::find_bin_dirs().is_empty()
}

/// Makes sure that everything is here; with `install` by installing what is not.
pub(crate) async fn require(install: bool, purpose: Purpose) -> Result<(), Failure> {
    let needed = |tool: &&Tool| tool.benchmarked || purpose == Purpose::Test;
    let needed: Vec<_> = TOOLS.iter().filter(needed).collect();
    let missing: Vec<_> = needed.iter().filter(|tool| !(tool.found)()).collect();
    let environment = purpose == Purpose::Bench || python::is_ready();
    if missing.is_empty() && environment {
        return Ok(());
    }
    if !install {
        let tools = missing
            .iter()
            .map(|tool| format!("  {} ({})", tool.name, tool.package));
        let python = (!environment).then(|| format!("  {}", python::WHAT));
        let list: Vec<_> = tools.chain(python).collect();
        return Err(format!(
            "missing on this machine:\n{}\nwith `--install` all of it is installed",
            list.join("\n")
        )
        .into());
    }
    if !missing.is_empty() {
        apt_install(missing.iter().map(|tool| tool.package).collect()).await?;
    }
    if let Some(tool) = needed.iter().find(|tool| !(tool.found)()) {
        return Err(format!("{} was installed and cannot be found", tool.package).into());
    }
    if !environment {
        python::install().await?;
    }
    Ok(())
}

async fn apt_install(packages: Vec<&str>) -> Result<(), Failure> {
    if find("apt-get").is_none() {
        let list = packages.join(" ");
        return Err(format!(
            "there is no apt-get here: install {list} by hand, and run this again"
        )
        .into());
    }
    apt(&["update", "-q"]).await?;
    let mut args = vec!["install", "-q", "-y", "--no-install-recommends"];
    args.extend(packages);
    apt(&args).await
}

async fn apt(args: &[&str]) -> Result<(), Failure> {
    println!("apt-get {}", args.join(" "));
    let sudo = (!is_root()).then_some("sudo");
    let words = sudo.into_iter().chain([
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        // Packages start their services in this run level's stead: we want the programs only.
        "RUNLEVEL=1",
        "apt-get",
    ]);
    run(words.chain(args.iter().copied())).await
}

pub(crate) async fn run<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<(), Failure> {
    let mut words = words.into_iter();
    let program = words.next().ok_or("nothing to run")?;
    let status = Command::new(program)
        .args(words)
        .kill_on_drop(true)
        .status()
        .await;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program} ended with {status}").into()),
        Err(error) => Err(format!("{program}: {error}").into()),
    }
}

fn is_root() -> bool {
    // The owner of our own entry in /proc is who we are.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// `PATH` with the places where servers are and users' shells do not look.
pub(crate) fn path() -> Vec<PathBuf> {
    let mut path: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    path.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    path
}

pub(crate) fn find(program: &str) -> Option<PathBuf> {
    path()
        .into_iter()
        .map(|dir| dir.join(program))
        .find(|path| Path::is_file(path))
}
