//! The data path over real sockets: what the upstream and the client see, byte by byte, and what is known
//! when something breaks.

mod evidence;
mod faithful;
mod idle_race;
mod listening;
mod streaming;
mod support;
mod tls;
mod tunnel;
