//! Sends a request to the upstream once, and says what is known of its execution.
