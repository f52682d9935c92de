//! What a proxy removes from, and adds to, the header fields it passes on.
