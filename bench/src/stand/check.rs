//! Whether a stretch was what it claims to be.

use crate::load::Counted;
use crate::subject::Traffic;

/// Whether the answers were right, and the service behind executed what it should have.
pub(super) fn check(
    traffic: Traffic,
    counted: &Counted,
    executed: u64,
    connections: u32,
) -> Result<(), &'static str> {
    // Requests that wrk does not wait for at its end may have been executed or not.
    let in_flight = u64::from(connections);
    let expected = match traffic {
        Traffic::Plain => counted.requests..=counted.requests + in_flight,
        Traffic::Fresh => counted.requests..=counted.fresh,
        Traffic::Replays => 0..=0,
        Traffic::Storm => counted.fresh.saturating_sub(in_flight)..=counted.fresh,
    };
    let right = match traffic {
        // What is in flight is answered with 409, as it should be.
        Traffic::Storm => counted.others == 0 && counted.accepted + counted.conflicts > 0,
        Traffic::Plain | Traffic::Fresh | Traffic::Replays => counted.refused == 0,
    };
    if counted.broken > 0 {
        return Err("connections failed or answers came too late");
    }
    if !right {
        return Err("answers with an unexpected status");
    }
    if !expected.contains(&executed) {
        return Err("executions and fresh keys differ");
    }
    if counted.requests == 0 {
        return Err("no answer came");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTED: Counted = Counted {
        requests: 100,
        micros: 1_000_000,
        p50: 10,
        p99: 20,
        fresh: 102,
        accepted: 0,
        conflicts: 0,
        others: 0,
        refused: 0,
        broken: 0,
    };

    #[test]
    fn a_guard_that_executes_too_often_or_too_seldom_is_found() {
        let fresh = |executed| check(Traffic::Fresh, &COUNTED, executed, 2);
        assert!(fresh(100).is_ok() && fresh(102).is_ok());
        assert!(fresh(99).is_err() && fresh(103).is_err());
    }

    #[test]
    fn replays_execute_nothing_and_a_storm_every_fresh_key() {
        assert!(check(Traffic::Replays, &COUNTED, 1, 2).is_err());
        assert!(check(Traffic::Replays, &COUNTED, 0, 2).is_ok());
        let storm = Counted {
            fresh: 10,
            accepted: 60,
            conflicts: 40,
            refused: 40,
            ..COUNTED
        };
        assert!(check(Traffic::Storm, &storm, 9, 2).is_ok());
        assert!(check(Traffic::Storm, &storm, 11, 2).is_err());
        let failing = Counted { others: 1, ..storm };
        assert!(check(Traffic::Storm, &failing, 9, 2).is_err());
    }

    #[test]
    fn answers_that_are_errors_are_found() {
        let refused = Counted {
            refused: 1,
            ..COUNTED
        };
        let broken = Counted {
            broken: 1,
            ..COUNTED
        };
        for counted in [refused, broken] {
            assert!(check(Traffic::Plain, &counted, 100, 2).is_err());
        }
    }
}
