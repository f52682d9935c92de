//! Real input: the proxy in front of services that somebody else wrote and that know nothing of keys, driven
//! by clients that somebody else wrote.
//!
//! httpbin under gunicorn and nginx run as they are. What counts as an effect is a line in their own access
//! logs, read after they have stopped. Clients are `curl --retry` and Python's `http.client`.

mod service;

mod curl;
mod httpbin;
mod nginx;
mod relay;
