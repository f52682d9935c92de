//! Accepts connections and serves HTTP/1.1 on them, until told to drain.
