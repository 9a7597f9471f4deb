//! Knobs that are turned down while a backend is open.

use std::ops::Deref;
use std::sync::OnceLock;

use crate::Knobs;

/// What may be used at present. Whoever still looks at what it was before compiles what was right to compile then.
#[derive(Debug)]
pub struct HeldKnobs {
    knobs: Knobs,
    /// What takes its place. The chain is as long as kernels were tried otherwise after they had failed, which is short.
    next: OnceLock<Box<HeldKnobs>>,
}

impl HeldKnobs {
    /// Begins with these.
    pub fn new(knobs: Knobs) -> HeldKnobs {
        HeldKnobs { knobs, next: OnceLock::new() }
    }

    /// Takes others in their place.
    pub fn hold(&self, knobs: Knobs) {
        let mut held = self.last();
        if held.knobs == knobs {
            return;
        }
        let mut next = Box::new(HeldKnobs::new(knobs));
        // Whoever is faster comes before it.
        while let Err(refused) = held.next.set(next) {
            next = refused;
            held = held.last();
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
    fn what_is_held_last_counts_and_what_was_borrowed_stays_as_it_was() {
        let held = HeldKnobs::new("attention=-f16".parse().expect("knobs"));
        let before: &Knobs = &held;
        held.hold("softmax=plain".parse().expect("knobs"));
        assert!(!held.allows("softmax", Variant::Subgroups) && held.allows("attention", Variant::F16));
        held.hold(before.clone());
        assert!(held.allows("softmax", Variant::Subgroups) && !held.allows("attention", Variant::F16));
        assert!(!before.allows("attention", Variant::F16));
    }
}
