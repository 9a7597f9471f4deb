//! Knobs that are turned down while a backend is open.

use std::ops::Deref;
use std::sync::OnceLock;

use crate::Knobs;

/// What may be used at present. It only ever becomes less, so whoever still looks at what it was loses nothing but speed.
#[derive(Debug)]
pub struct HeldKnobs {
    knobs: Knobs,
    /// What takes its place. The chain is as long as kernels have failed, which is short.
    next: OnceLock<Box<HeldKnobs>>,
}

impl HeldKnobs {
    /// Begins with these.
    pub fn new(knobs: Knobs) -> HeldKnobs {
        HeldKnobs { knobs, next: OnceLock::new() }
    }

    /// Forbids what `more` forbids too.
    pub fn restrict(&self, more: &Knobs) {
        let mut held = self.last();
        loop {
            let mut knobs = held.knobs.clone();
            knobs.add(more);
            match held.next.set(Box::new(HeldKnobs::new(knobs))) {
                Ok(()) => return,
                // Somebody else was faster, and this comes behind it.
                Err(_) => held = held.last(),
            }
        }
    }

    fn last(&self) -> &HeldKnobs {
        let mut held = self;
        while let Some(next) = held.next.get() {
            held = next;
        }
        held
    }
}

impl Deref for HeldKnobs {
    type Target = Knobs;

    fn deref(&self) -> &Knobs {
        &self.last().knobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Variant;

    #[test]
    fn what_is_forbidden_stays_forbidden() {
        let held = HeldKnobs::new("attention=-f16".parse().expect("knobs"));
        held.restrict(&"softmax=plain".parse().expect("knobs"));
        held.restrict(&"rope=-fused".parse().expect("knobs"));
        assert!(!held.allows("attention", Variant::F16) && !held.allows("softmax", Variant::Subgroups));
        assert!(!held.allows("rope", Variant::Fused) && held.allows("attention", Variant::Subgroups));
    }
}
