//! The three places where a key can be claimed. One suite for all of them: see [`three_ways`].

/// What stands between the client and the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Front {
    /// The binary, in front of a service that knows nothing of it.
    Proxy,
    /// `IdempotencyLayer` around an axum app.
    Layer,
    /// `TransactionalLayer` around an axum app whose effects are rows in Postgres.
    SameTransaction,
}

/// Makes three tests of a function that takes a [`Front`]: `NAME::proxy`, `NAME::layer`, `NAME::same_transaction`.
///
/// Those that the proxy alone can pass are plain `#[tokio::test]`s, and `differences.rs` says why.
macro_rules! three_ways {
    ($name:ident) => {
        mod $name {
            use crate::front::Front;

            #[tokio::test]
            async fn proxy() {
                super::$name(Front::Proxy).await;
            }

            #[tokio::test]
            async fn layer() {
                super::$name(Front::Layer).await;
            }

            #[tokio::test]
            async fn same_transaction() {
                super::$name(Front::SameTransaction).await;
            }
        }
    };
}

pub(crate) use three_ways;
