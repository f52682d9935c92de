//! Stores on SQL databases, each behind its feature: `postgres` for any number of processes, `sqlite`
//! for the processes of one machine. Neither is on by default.
