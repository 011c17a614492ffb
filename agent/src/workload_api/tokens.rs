//! [`TokenCache`]: JWT-SVIDs that were asked of the authority, used again for half of their life.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use culvert_spiffe::SpiffeId;

use crate::identity::JwtSvid;

/// Tokens kept; more are asked of the authority each time.
const MAX_TOKENS: usize = 4096;
/// Tokens kept of one identity, so that one workload's many audiences do not push out another's.
const MAX_TOKENS_OF_ONE: usize = 64;

/// Tokens by identity and audience. Bounded; what is past half of its life is not given out.
#[derive(Default)]
pub(super) struct TokenCache {
    /// Guards the tokens; held for a look-up or an insertion.
    kept: Mutex<HashMap<(SpiffeId, Vec<String>), Kept>>,
}

struct Kept {
    token: Arc<JwtSvid>,
    /// Seconds since 1970.
    use_until: i64,
}

impl TokenCache {
    /// A token for exactly these audiences that has at least half of its life left.
    pub(super) fn find(
        &self,
        id: &SpiffeId,
        audience: &[String],
        now: i64,
    ) -> Option<Arc<JwtSvid>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.get(&(id.clone(), audience.to_vec()))?;
        (now < found.use_until).then(|| Arc::clone(&found.token))
    }

    /// Keeps a token that was given out at `now`.
    pub(super) fn keep(&self, id: &SpiffeId, audience: Vec<String>, token: Arc<JwtSvid>, now: i64) {
        let use_until = now + (token.expires_at() - now) / 2;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, kept| now < kept.use_until);
        let own = kept.keys().filter(|(of, _)| of == id).count();
        if kept.len() < MAX_TOKENS && own < MAX_TOKENS_OF_ONE {
            kept.insert((id.clone(), audience), Kept { token, use_until });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SpiffeId {
        format!("spiffe://cluster.local/ns/default/sa/{name}").parse().unwrap()
    }

    fn audience(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    #[test]
    fn token_is_used_for_half_of_its_life_by_its_owner_and_audience_only() {
        let cache = TokenCache::default();
        let token = Arc::new(JwtSvid::new("t".into(), 1300));
        cache.keep(&id("a"), audience("x"), token, 1000);
        assert!(cache.find(&id("a"), &audience("x"), 1149).is_some());
        assert!(cache.find(&id("a"), &audience("x"), 1150).is_none());
        assert!(cache.find(&id("b"), &audience("x"), 1000).is_none());
        assert!(cache.find(&id("a"), &audience("y"), 1000).is_none());
        let both = vec!["x".to_owned(), "y".to_owned()];
        assert!(cache.find(&id("a"), &both, 1000).is_none());
    }

    #[test]
    fn one_identity_cannot_fill_the_cache() {
        let cache = TokenCache::default();
        let token = || Arc::new(JwtSvid::new("t".into(), 1300));
        for number in 0..1000 {
            cache.keep(&id("greedy"), audience(&number.to_string()), token(), 1000);
        }
        cache.keep(&id("modest"), audience("x"), token(), 1000);
        assert!(cache.find(&id("modest"), &audience("x"), 1000).is_some());
        assert_eq!(cache.kept.lock().unwrap().len(), MAX_TOKENS_OF_ONE + 1);
        // Those whose half is over make room.
        cache.keep(&id("greedy"), audience("late"), Arc::new(JwtSvid::new("t".into(), 1600)), 1200);
        assert_eq!(cache.kept.lock().unwrap().len(), 1);
    }
}
