//! The layer: a store, a policy, and what its requests share.

use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use crate::policy::Policy;
use crate::resources::{Guard, Limits, Resources};
use crate::service::Idempotency;
use crate::store::{SharedStore, Store};

/// Guards a service: each key is executed once, its response recorded and replayed.
///
/// Clones share the store, the bounds and the tasks; make one layer, and a clone per route with the
/// route's policy. See the [crate's documentation](crate) for an example.
#[derive(Debug, Clone)]
pub struct IdempotencyLayer {
    policy: Arc<Policy>,
    resources: Arc<Resources>,
}

impl IdempotencyLayer {
    /// A layer with the default policy and limits.
    pub fn new(store: impl Store) -> Self {
        Self::with_limits(store, Limits::default())
    }

    /// A layer with bounds of your own.
    pub fn with_limits(store: impl Store, limits: Limits) -> Self {
        Self {
            policy: Arc::new(Policy::default()),
            resources: Arc::new(Resources::new(SharedStore::new(store), limits)),
        }
    }

    /// The same layer, with another policy. Its clones keep theirs.
    ///
    /// # Panics
    /// Where the policy contradicts itself; [`Policy::validate`] tells beforehand.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        if let Err(errors) = policy.validate() {
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            panic!("the policy contradicts itself: {}", errors.join("; "));
        }
        Self {
            policy: Arc::new(policy),
            ..self
        }
    }

    /// Waits until every claimed request is settled, for all clones of this layer. Call it when the
    /// server has stopped taking requests: work that a client no longer waits for goes on until then.
    ///
    /// What is still running after `limit` is settled as unknown. Returns whether nothing was.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.resources.drain(limit).await
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        let guard = Guard {
            policy: Arc::clone(&self.policy),
            resources: Arc::clone(&self.resources),
        };
        Idempotency::new(inner, Arc::new(guard))
    }
}
