//! Stores on SQL databases.
