//! What tests of stores and proxies share.
//!
//! Nothing here is published. Everything panics on failure: it is for tests.
