//! The inbox on real servers: effects are counted.

mod age;
mod dropped;
mod failure;
mod fixture;
mod isolation;
mod open;
mod order;
mod redelivery;
mod retention;
mod silent;
mod twins;
