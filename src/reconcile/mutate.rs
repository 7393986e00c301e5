//! Breaks a desired state on purpose, to see whether a rehearsal notices; only in builds with the feature
//! `fault-injection`. `NETREC_MUTATE` holds the object that goes, as plans name it (`element port4-any { tcp . 8080 }`,
//! `route default in web`), or a chain and the number of the rule that goes (`chain forward-to.front 3`).

use crate::state::{Key, Object, State};

/// The state, broken as the environment says.
pub(super) fn mutated(mut state: State) -> State {
    let Ok(wanted) = std::env::var("NETREC_MUTATE") else { return state };
    let named = |key: &&Key| wanted == key.to_string() || wanted.starts_with(&format!("{key} "));
    let Some(key) = state.iter().map(|(key, _)| key).find(named).cloned() else { return state };
    let rule = wanted.rsplit(' ').next().and_then(|n| n.parse::<usize>().ok());
    let Some(mut entry) = state.remove(&key) else { return state };
    if let (Object::Chain(chain), Some(rule)) = (&mut entry.object, rule) {
        if rule > 0 && rule <= chain.rules.len() {
            chain.rules.remove(rule - 1);
        }
        state.insert(key, entry);
    }
    state
}
