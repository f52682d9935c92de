//! [`Cached`](onlyonce::cached::Cached): what is answered without the store, and what never is.
//!
//! Time is paused and moves by itself: the process's clock and the store's move together.

mod fixture;
mod memory;
mod shared;
