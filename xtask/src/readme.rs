//! Checks that the commands in the READMEs exist: a newcomer types them first.

use std::fs;

use tokio::process::Command;

use crate::Failure;
use crate::args::TASKS;
use crate::steps::root;

/// Of the repository, and of each crate that is published.
const READMES: [&str; 7] = [
    "README.md",
    "crates/onlyonce/README.md",
    "crates/onlyonce-axum/README.md",
    "crates/onlyonce-outbox/README.md",
    "crates/onlyonce-proxy/README.md",
    "crates/onlyonce-redis/README.md",
    "crates/onlyonce-sqlx/README.md",
];

/// Checks every line of their shell blocks that runs `cargo xtask`, `cargo run` or `onlyonce`.
pub(crate) async fn check() -> Result<(), Failure> {
    let mut found = Vec::new();
    for path in READMES {
        let readme = fs::read_to_string(root().join(path))
            .map_err(|error| format!("{path} cannot be read: {error}"))?;
        found.extend(commands(&readme));
    }
    if found.is_empty() {
        return Err("the READMEs show no command".into());
    }
    for command in &found {
        println!("{command}");
        let words: Vec<_> = command.split_whitespace().collect();
        match words.as_slice() {
            ["cargo", "xtask", task, ..] if TASKS.contains(task) => {}
            ["cargo", "xtask", ..] => return Err(format!("no such task: {command}").into()),
            ["cargo", "run", rest @ ..] => {
                let at = rest
                    .iter()
                    .position(|word| *word == "--")
                    .unwrap_or(rest.len());
                binary(command, rest.get(at + 1..).unwrap_or_default()).await?;
            }
            ["onlyonce", args @ ..] => binary(command, args).await?,
            _ => {}
        }
    }
    Ok(())
}

/// The binary must know the subcommand, and the subcommand every flag.
async fn binary(command: &str, args: &[&str]) -> Result<(), Failure> {
    let subcommands: Vec<_> = args
        .iter()
        .take_while(|arg| is_word(arg))
        .copied()
        .collect();
    let mut help = Command::new(root().join("target/debug/onlyonce"));
    let help = help.args(&subcommands).arg("--help").output().await?;
    if !help.status.success() {
        return Err(format!("the binary has no such command: {command}").into());
    }
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let flags = args.iter().filter(|arg| arg.starts_with("--"));
    let mut names = flags.map(|flag| flag.split('=').next().unwrap_or(flag));
    match names.find(|name| !help.contains(*name)) {
        Some(name) => Err(format!("there is no flag {name}: {command}").into()),
        None => Ok(()),
    }
}

fn is_word(arg: &str) -> bool {
    arg.chars().all(|c| c.is_ascii_lowercase())
}

/// The command lines in fenced blocks, without prompts, comments and pipes.
fn commands(readme: &str) -> Vec<String> {
    let mut inside = false;
    let mut commands = Vec::new();
    for line in readme.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            inside = !inside && ["sh", "bash", "console", "shell"].contains(&language.trim());
            continue;
        }
        let line = line.trim().trim_start_matches("$ ");
        let line = line
            .split([';', '|', '&', '#'])
            .next()
            .unwrap_or_default()
            .trim();
        if inside
            && ["cargo ", "onlyonce "]
                .iter()
                .any(|program| line.starts_with(program))
        {
            commands.push(line.trim_end_matches('\\').to_owned());
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_from_shell_blocks_only() {
        let readme = "cargo no\n```rust\ncargo no\n```\n```sh\n$ cargo xtask test # all\nls\nonlyonce serve --x | cat\n```\ncargo no";
        assert_eq!(commands(readme), ["cargo xtask test", "onlyonce serve --x"]);
    }
}
