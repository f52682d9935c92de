//! The sink for Kafka, against the client library's own cluster: brokers that speak the protocol over loopback, and
//! fail when they are told to. `ONLYONCE_TEST_KAFKA` names other brokers for what needs no failures.

mod cluster;
mod failures;
mod order;
mod wire;
