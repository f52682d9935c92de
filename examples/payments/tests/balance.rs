//! The example does what it says: services, relays, ledger and database are killed at random moments, under load, and
//! charges, ledger entries and keys are the same number in the end.
//!
//! `ONLYONCE_TEST_SECONDS` makes it longer, as for the other tests of random faults.

use std::process::Command;

#[test]
fn the_books_balance_to_zero_through_crashes() {
    let seconds = std::env::var("ONLYONCE_TEST_SECONDS").unwrap_or_else(|_| "10".to_owned());
    let output = Command::new(env!("CARGO_BIN_EXE_payments"))
        .args(["--form", "same-transaction", "--seconds", &seconds])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{complaints}");
    // Not because nothing happened.
    let number = |name: &str| -> u64 {
        let line = printed
            .lines()
            .find(|line| line.trim_start().starts_with(name));
        line.and_then(|line| line.split_whitespace().last()?.parse().ok())
            .unwrap()
    };
    assert!(
        number("operations") > 50 && number("charges") == number("operations"),
        "{printed}"
    );
    let crashes = printed.lines().next().unwrap();
    assert!(!crashes.contains(": 0 crashes"), "{crashes}");
}

#[test]
fn a_command_line_that_is_wrong_is_refused() {
    for args in [
        &["--form", "perfect"][..],
        &["relay"],
        &["unheard-of", "--database", "x"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_payments"))
            .args(args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64), "{args:?}");
    }
}
