//! The example does what it says: services, relays, ledger and database are killed at random moments, under load. In the
//! same transaction charges, ledger entries and keys are the same number in the end; a lock and memory do not help.
//!
//! `ONLYONCE_TEST_SECONDS` makes the first longer, as for the other tests of random faults.

use std::process::{Command, Output};

fn payments(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_payments"));
    command.args(args).output().unwrap()
}

/// What was printed: a line about crashes for each form, and the sheet.
struct Printed(String);

impl Printed {
    fn of(output: &Output) -> Self {
        let printed = String::from_utf8_lossy(&output.stdout);
        let complaints = String::from_utf8_lossy(&output.stderr);
        Self(format!("{printed}\n{complaints}"))
    }

    /// A line of the sheet, form by form.
    fn line(&self, name: &str) -> Vec<u64> {
        let line = self
            .0
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(name))
            .unwrap_or_else(|| panic!("there is no line {name:?} in\n{}", self.0));
        let numbers = line
            .split_whitespace()
            .map(|number| number.parse().unwrap());
        numbers.collect()
    }

    /// How many of these were killed, over all forms.
    fn killed(&self, what: &str) -> u64 {
        let crashes = self.0.lines().filter(|line| line.contains(": killed "));
        let counts = crashes.filter_map(|line| {
            let (before, _) = line.split_once(&format!(" {what}"))?;
            before.rsplit(' ').next()?.parse::<u64>().ok()
        });
        counts.sum()
    }
}

#[test]
fn the_books_balance_to_zero_through_crashes() {
    let seconds = std::env::var("ONLYONCE_TEST_SECONDS").unwrap_or_else(|_| "10".to_owned());
    let output = payments(&["--form", "same-transaction", "--seconds", &seconds]);
    let printed = Printed::of(&output);
    assert!(output.status.success(), "{}", printed.0);
    // Not because nothing happened.
    let keys = printed.line("operations, each with its key");
    assert!(keys[0] > 50, "{}", printed.0);
    for line in ["told that they paid", "charges", "ledger entries"] {
        assert_eq!(printed.line(line), keys, "{}", printed.0);
    }
    let kinds = ["services", "relays", "ledgers", "databases"];
    let killed: u64 = kinds.iter().map(|kind| printed.killed(kind)).sum();
    assert!(killed > 3, "{}", printed.0);
}

/// The claims of `docs/choosing.md`, form by form. Nothing has to crash for it: it is enough that a request comes twice.
#[test]
fn a_lock_does_not_help_nor_does_memory() {
    let forms = ["naive", "lock", "memory", "layer"];
    let mut args = vec!["--no-crashes", "--seconds", "3"];
    args.extend(forms.iter().flat_map(|form| ["--form", form]));
    let output = payments(&args);
    let printed = Printed::of(&output);
    assert!(output.status.success(), "{}", printed.0);
    let again = printed.line("again for the same key");
    for (form, again) in forms.iter().zip(again) {
        assert_eq!(again == 0, *form == "layer", "{form}\n{}", printed.0);
    }
}

#[test]
fn a_command_line_that_is_wrong_is_refused() {
    for args in [
        &["--form", "perfect"][..],
        &["relay"],
        &["tables", "--database", "x"],
        &["unheard-of", "--database", "x"],
    ] {
        assert_eq!(payments(args).status.code(), Some(64), "{args:?}");
    }
}
