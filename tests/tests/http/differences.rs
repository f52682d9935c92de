//! Where the three fronts differ, all of it: what only a proxy can be asked, and what an outcome leaves of its key.
//!
//! Everything else is the same three ways. `documented.rs` keeps the first list true: a test that is not made
//! [`three_ways`](crate::front::three_ways) is named here, and nothing else is.

use crate::front::Front;

/// Why something can be asked of a proxy and of no layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is about the connection to the service, and how its answer is read. A handler is called, and cannot answer
    /// what is no response.
    Upstream,
    /// It is about how requests are read, or answers written, byte by byte. That is the server's (hyper's, in an
    /// axum app): it is over before a layer sees anything, or begins after it.
    Server,
    /// It is about being a hop: what is removed from requests and added to them on their way.
    Hop,
    /// It is about the program: its flags and its log.
    Program,
}

/// The tests of the proxy alone.
pub(crate) const PROXY_ONLY: &[(Why, &[&str])] = &[
    (
        Why::Upstream,
        &[
            "isolation::s10_a_header_value_that_splits_is_no_answer",
            "outcomes::o10_what_was_never_sent_frees_the_key",
            "outcomes::o13_a_reused_connection_that_breaks_is_not_tried_again",
            "outcomes::o14_an_answer_up_to_the_end_of_the_connection_is_kept",
            "outcomes::o20_interim_responses_are_no_outcome",
            "protocol::u4_interim_responses_are_swallowed",
            "protocol::u6_a_guarded_request_never_switches_protocols",
            "protocol::u6_a_websocket_with_a_key_passes_by",
            "proxy::c_r2_bytes_behind_an_answer_poison_no_record",
            "proxy::c_r4_content_where_there_is_none_is_dropped",
            "proxy::c_r5_c_r9_many_interim_responses_and_no_date",
            "proxy::c_r_invalid_answers_are_unknown",
            "proxy::o3_an_answer_amid_the_upload_is_kept",
        ],
    ),
    (
        Why::Server,
        &[
            "framing::c_f11_bare_line_feeds_are_not_passed_on",
            "framing::c_f1_c_f4_c_f20_what_is_taken_is_stated_anew",
            "framing::c_f2_c_f3_c_f4_lengths_and_codings_with_two_readings_are_refused",
            "framing::c_f8_c_f9_c_f10_c_f12_c_f14_c_f15_c_f16_malformed_heads_are_refused",
            "protocol::u16_o14_an_old_client_sees_a_broken_answer_as_broken",
        ],
    ),
    (
        Why::Hop,
        &[
            "methods::x6_listing_connect_does_not_open_it",
            "methods::x6_x1_connect_and_trace_are_refused_keyed_or_not",
            "proxy::c_h1_c_h2_c_h3_c_h5_c_v1_a_guarded_request_is_cleaned_like_any_other",
            "proxy::c_t2_the_host_is_kept_or_rewritten",
            "proxy::c_t3_c_t4_only_trusted_peers_say_where_a_request_comes_from",
            "proxy::c_v2_a_loop_is_refused_and_takes_no_key",
            "proxy::c_v3_c_v4_max_forwards_counts_for_options_and_traces_pass",
        ],
    ),
    (
        Why::Program,
        &[
            "errors::g12_the_log_counts_outcomes",
            "required::r1_the_flag_requires_keys_too",
        ],
    ),
];

/// How a request that was executed can end, short of an answer that commits and is kept everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A 5xx that is the service's own answer.
    Failed,
    /// 502, 504, or 503 without `Retry-After`.
    Gateway,
    /// The service died, or was silent to the deadline.
    NoAnswer,
    /// The answer's body broke off.
    Truncated,
}

/// What a retry finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// The answer.
    Answer,
    /// Nobody knows: nothing is executed again.
    Unknown,
    /// Nothing: it is executed.
    Nothing,
}

impl Front {
    /// What such an end leaves. This is the whole difference that the transaction makes to a retry.
    pub(crate) fn leaves(self, end: End) -> Left {
        match (self, end) {
            // What did not commit did not happen.
            (Self::SameTransaction, _) => Left::Nothing,
            (Self::Proxy | Self::Layer, End::Failed) => Left::Answer,
            (Self::Proxy | Self::Layer, End::Gateway | End::NoAnswer | End::Truncated) => {
                Left::Unknown
            }
        }
    }

    /// Whether it speaks to the service over a connection of its own, and so must not pass on what belongs to the
    /// client's ([`Why::Hop`]). A layer leaves requests as the server gave them.
    pub(crate) fn is_hop(self) -> bool {
        self == Self::Proxy
    }

    /// Whether the client gets an answer's bytes as they come. In the same transaction it gets none before the commit.
    pub(crate) fn streams(self) -> bool {
        self != Self::SameTransaction
    }

    /// Whether a claim shows in the store while its request is at work. In the same transaction it is not committed yet.
    pub(crate) fn shows_claims(self) -> bool {
        self != Self::SameTransaction
    }
}
