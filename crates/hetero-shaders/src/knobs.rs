//! Which variants of which kernels may be used: what goes around a driver's mistake, and what tells two variants apart.
//!
//! A variant is a way to compute the same that is faster where it works. Every kernel has a plain form, which needs
//! none of them, so any of them may be left out, for all kernels or for a family of them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::{Features, Kernel, Tiles};

/// A way to compute what a plain kernel computes too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Variant {
    /// 16-bit floats of the device.
    F16,
    /// Subgroup operations.
    Subgroups,
    /// One kernel in the place of several operators' own.
    Fused,
    /// Several rows and heads by a workgroup, through its memory.
    Tiled,
    /// One result from several workgroups, put together by a second kernel.
    Split,
    /// Products of 8-bit integers, four at a time.
    IntegerDot,
    /// Units for small matrices.
    Matrix,
    /// Products and sums in 16-bit floats.
    Half,
}

impl Variant {
    /// All of them.
    pub const ALL: [Variant; 8] = [
        Variant::F16,
        Variant::Subgroups,
        Variant::Fused,
        Variant::Tiled,
        Variant::Split,
        Variant::IntegerDot,
        Variant::Matrix,
        Variant::Half,
    ];

    /// Whether it is used only when it is asked for: it rounds numbers that others do not.
    pub fn is_opt_in(self) -> bool {
        matches!(self, Variant::IntegerDot | Variant::Half)
    }

    /// Whether asking for it changes anything: it is opt-in, or it is left alone where it does not pay.
    pub fn can_be_asked_for(self) -> bool {
        self.is_opt_in() || self == Variant::Matrix
    }

    /// Whether kernels of a family have it.
    pub fn is_of(self, family: &str) -> bool {
        match self {
            Variant::F16 | Variant::Subgroups => true,
            Variant::Fused => matches!(family, "linear_vector" | "linear_tiled" | "rope_cache"),
            Variant::Tiled | Variant::Split => family == "attention_tiled",
            Variant::IntegerDot => matches!(family, "linear_vector" | "linear_tiled"),
            Variant::Matrix | Variant::Half => family == "linear_tiled",
        }
    }

    /// Its name in the text of [`Knobs`].
    pub fn name(self) -> &'static str {
        match self {
            Variant::F16 => "f16",
            Variant::Subgroups => "subgroups",
            Variant::Fused => "fused",
            Variant::Tiled => "tiled",
            Variant::Split => "split",
            Variant::IntegerDot => "dot",
            Variant::Matrix => "matrix",
            Variant::Half => "half",
        }
    }
}

/// What may be used. All of it, unless something is forbidden, but for variants that must be asked for.
///
/// As text, `attention=-split,linear_tiled=plain`: for each family of kernels, or `*` for all, variants with a minus
/// before them, or `plain` for all variants; `linear_vector=+dot` asks for one that must be asked for. `tiles=small`
/// takes another row of the table of [`crate::tuning`] than the device's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Knobs {
    forbidden: BTreeSet<(&'static str, Variant)>,
    asked_for: BTreeSet<(&'static str, Variant)>,
    tiles: Option<Tiles>,
}

impl Knobs {
    /// Forbids everything that can be forbidden.
    pub fn plain() -> Knobs {
        let mut knobs = Knobs::default();
        Variant::ALL.iter().for_each(|variant| knobs.forbid_everywhere(*variant));
        knobs
    }

    /// Whether a family of kernels may use a variant.
    pub fn allows(&self, family: &'static str, variant: Variant) -> bool {
        let is_asked_for = !variant.is_opt_in() || self.asked_for.contains(&(family, variant));
        is_asked_for && !self.forbidden.contains(&(family, variant))
    }

    /// Whether a variant is to be used even where it does not pay, and is not forbidden.
    pub fn asks_for(&self, family: &'static str, variant: Variant) -> bool {
        self.asked_for.contains(&(family, variant)) && self.allows(family, variant)
    }

    /// Asks for a variant that must be asked for. What is forbidden stays so.
    ///
    /// # Panics
    /// When no kernel is of the family.
    pub fn ask_for(&mut self, family: &'static str, variant: Variant) {
        assert!(Kernel::FAMILIES.contains(&family), "no kernel is called {family}");
        self.asked_for.insert((family, variant));
    }

    /// Takes a variant from a family of kernels.
    ///
    /// # Panics
    /// When no kernel is of the family.
    pub fn forbid(&mut self, family: &'static str, variant: Variant) {
        assert!(Kernel::FAMILIES.contains(&family), "no kernel is called {family}");
        self.forbidden.insert((family, variant));
    }

    /// Takes a variant from all kernels.
    pub fn forbid_everywhere(&mut self, variant: Variant) {
        Kernel::FAMILIES.iter().for_each(|family| self.forbid(family, variant));
    }

    /// Forbids and asks for what another does too.
    pub fn add(&mut self, other: &Knobs) {
        self.forbidden.extend(other.forbidden.iter().copied());
        self.asked_for.extend(other.asked_for.iter().copied());
        self.tiles = other.tiles.or(self.tiles);
    }

    /// The shapes of work that are taken instead of the device's own.
    pub fn tiles(&self) -> Option<Tiles> {
        self.tiles
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.forbidden.is_empty() && self.asked_for.is_empty() && self.tiles.is_none()
    }

    /// What a kernel may make use of, of what the device has.
    pub fn features(&self, kernel: Kernel, features: Features) -> Features {
        let family = kernel.family();
        let f16 = features.f16 && self.allows(family, Variant::F16);
        let allowed = Features {
            f16,
            half: features.half && f16 && self.allows(family, Variant::Half),
            subgroups: features.subgroups && self.allows(family, Variant::Subgroups),
            integer_dot: features.integer_dot,
        };
        // What a kernel does not look at makes no other pipeline of it.
        Features { half: kernel.features(allowed).half, ..allowed }
    }
}

/// What stands for [`Knobs::tiles`] in the text.
const TILES: &str = "tiles";

/// A text that is no [`Knobs`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{part}`: {expected} is expected")]
pub struct InvalidKnobs {
    /// Where it is wrong.
    pub part: String,
    /// What may stand there.
    pub expected: String,
}

impl FromStr for Knobs {
    type Err = InvalidKnobs;

    fn from_str(text: &str) -> Result<Knobs, InvalidKnobs> {
        let mut knobs = Knobs::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let wrong = |expected: String| InvalidKnobs { part: part.to_owned(), expected };
            let (family, variant) = part
                .split_once('=')
                .ok_or_else(|| wrong("a kernel or `*`, an equals sign and `plain` or `-` with a variant".to_owned()))?;
            if family == TILES {
                let named = Tiles::ALL.into_iter().find(|tiles| tiles.name() == variant);
                let names = || Tiles::ALL.map(Tiles::name).join(", ");
                knobs.tiles = Some(named.ok_or_else(|| wrong(format!("one of {}", names())))?);
                continue;
            }
            let families = match family {
                "*" => Kernel::FAMILIES,
                family => {
                    let idx = Kernel::FAMILIES.iter().position(|known| *known == family);
                    let idx =
                        idx.ok_or_else(|| wrong(format!("`{TILES}` or a kernel of {}", Kernel::FAMILIES.join(", "))))?;
                    &Kernel::FAMILIES[idx..=idx]
                }
            };
            let is_asked_for = variant.starts_with('+');
            let named = Variant::ALL.iter().position(|known| match is_asked_for {
                true => known.can_be_asked_for() && &variant[1..] == known.name(),
                false => variant.strip_prefix('-') == Some(known.name()),
            });
            let variants = match (variant, named) {
                ("plain", _) => &Variant::ALL[..],
                (_, Some(idx)) => &Variant::ALL[idx..=idx],
                _ => {
                    let opt_in = Variant::ALL.iter().filter(|known| known.can_be_asked_for()).map(|known| ("+", known));
                    let names = Variant::ALL.iter().map(|known| ("-", known)).chain(opt_in);
                    let names: Vec<String> = names.map(|(sign, known)| format!("{sign}{}", known.name())).collect();
                    return Err(wrong(format!("`plain` or one of {}", names.join(", "))));
                }
            };
            let is_pointless = |variant: &Variant| !families.iter().any(|family| variant.is_of(family));
            if is_asked_for && variants.iter().any(is_pointless) {
                let having = Kernel::FAMILIES.iter().filter(|family| variants[0].is_of(family));
                let having: Vec<&str> = having.copied().collect();
                return Err(wrong(format!("`{variant}` of {}", having.join(" or "))));
            }
            for family in families {
                variants.iter().for_each(|variant| match is_asked_for {
                    true => knobs.ask_for(family, *variant),
                    false => knobs.forbid(family, *variant),
                });
            }
        }
        Ok(knobs)
    }
}

impl fmt::Display for Knobs {
    /// The text that reads as the same knobs, each variant by itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked_for = self.asked_for.iter().map(|knob| ("+", knob));
        for (idx, (sign, (family, variant))) in
            self.forbidden.iter().map(|knob| ("-", knob)).chain(asked_for).enumerate()
        {
            let comma = if idx > 0 { "," } else { "" };
            write!(f, "{comma}{family}={sign}{}", variant.name())?;
        }
        if let Some(tiles) = self.tiles {
            let is_first = self.forbidden.is_empty() && self.asked_for.is_empty();
            write!(f, "{}{TILES}={}", if is_first { "" } else { "," }, tiles.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_as_the_same() {
        let knobs: Knobs =
            "attention=-subgroups, linear_tiled=plain,*=-f16,linear_vector=+dot,tiles=small".parse().expect("knobs");
        assert!(!knobs.allows("attention", Variant::Subgroups) && knobs.allows("softmax", Variant::Subgroups));
        assert!(Variant::ALL.iter().all(|variant| !knobs.allows("linear_tiled", *variant)));
        assert!(Kernel::FAMILIES.iter().all(|family| !knobs.allows(family, Variant::F16)));
        assert!(knobs.allows("linear_vector", Variant::IntegerDot));
        assert!(!Knobs::default().allows("linear_vector", Variant::IntegerDot), "it is to be asked for");
        let asking: Knobs = "linear_tiled=+matrix".parse().expect("knobs");
        assert!(asking.asks_for("linear_tiled", Variant::Matrix) && knobs.allows("attention", Variant::Matrix));
        assert!(!knobs.asks_for("linear_tiled", Variant::Matrix), "it is forbidden");
        assert_eq!(knobs.to_string().parse(), Ok(knobs));
        assert_eq!("".parse(), Ok(Knobs::default()));
        let tiles: Knobs = "tiles=large".parse().expect("knobs");
        assert_eq!((tiles.tiles(), tiles.to_string()), (Some(Tiles::Large), "tiles=large".to_owned()));
        assert!(!tiles.is_empty());
    }

    #[test]
    fn what_is_no_knob_is_refused_with_what_would_be_one() {
        for (text, expected) in [
            ("attention", "an equals sign"),
            ("matmul=plain", "linear_tiled"),
            ("attention=subgroups", "-subgroups"),
            ("attention=-warp", "-split"),
            ("attention=+f16", "+dot"),
            ("attention=+half", "linear_tiled"),
            ("linear_vector=+matrix", "linear_tiled"),
            ("tiles=huge", "medium"),
        ] {
            let error = text.parse::<Knobs>().expect_err(text);
            assert!(error.part == text && error.expected.contains(expected), "{error}");
        }
    }

    #[test]
    fn every_kernel_is_of_a_family_and_none_is_empty() {
        let families: BTreeSet<&str> = Kernel::all().into_iter().map(Kernel::family).collect();
        assert_eq!(families, Kernel::FAMILIES.iter().copied().collect());
    }
}
