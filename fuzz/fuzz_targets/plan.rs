//! The text of a saved plan: read, and compared with another plan, with all that is said of what changed.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use netrec::reconcile::fuzzing::Example;

static EXAMPLE: LazyLock<Option<Example>> = LazyLock::new(|| {
    Example::new(
        "[networks.front]\nsubnet = \"10.20.0.0/24\"\n[containers.web]\nnetworks = [\"front\"]\nports = [\"8080:80\"]\n",
    )
});

fuzz_target!(|text: &[u8]| {
    let _ = EXAMPLE.as_ref().map(|example| example.compared(text));
});
