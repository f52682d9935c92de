//! What tests of stores and proxies share.
