//! What was seen of operators, and its form in the file that is kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::Variant;

/// What was seen of an operator on a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is right.
    Right,
    /// Its kernels are right when one variant of them is left out.
    Without {
        /// What is left out.
        variant: Variant,
        /// What went wrong otherwise.
        reason: String,
    },
    /// Its kernels are right in their plain form only.
    Plain {
        /// What went wrong otherwise.
        reason: String,
    },
    /// It is wrong.
    Wrong {
        /// What went wrong.
        reason: String,
    },
}

/// First line of the file; the number is the version of its form.
const HEAD: &str = "verdicts 2";
/// What stands before the name of a variant that is left out.
const WITHOUT: &str = "without ";

/// A line for each, its parts with tabs between them, behind the line with the version.
pub(super) fn written(verdicts: &BTreeMap<String, Verdict>) -> String {
    let mut text = format!("{HEAD}\n");
    for (case, verdict) in verdicts {
        let (word, reason) = match verdict {
            Verdict::Right => ("right".to_owned(), ""),
            Verdict::Without { variant, reason } => (format!("{WITHOUT}{}", variant.name()), &**reason),
            Verdict::Plain { reason } => ("plain".to_owned(), &**reason),
            Verdict::Wrong { reason } => ("wrong".to_owned(), &**reason),
        };
        let reason = reason.replace(['\t', '\n', '\r'], " ");
        let _ = writeln!(text, "{case}\t{word}\t{reason}");
    }
    text
}

/// What is written; nothing of another version, and no line that does not read, so that it is seen anew.
pub(super) fn parsed(text: &str) -> BTreeMap<String, Verdict> {
    let verdict = |line: &str| {
        let mut parts = line.split('\t');
        let (case, word, reason) = (parts.next()?, parts.next()?, parts.next()?.to_owned());
        let verdict = match word {
            "right" => Verdict::Right,
            "plain" => Verdict::Plain { reason },
            "wrong" => Verdict::Wrong { reason },
            word => {
                let name = word.strip_prefix(WITHOUT)?;
                let variant = Variant::ALL.into_iter().find(|variant| variant.name() == name)?;
                Verdict::Without { variant, reason }
            }
        };
        Some((case.to_owned(), verdict))
    };
    let mut lines = text.lines();
    match lines.next() {
        Some(HEAD) => lines.filter_map(verdict).collect(),
        _ => BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_as_the_same_and_other_versions_as_nothing() {
        let reason = || "1 in the place of 2".to_owned();
        let mut verdicts = BTreeMap::from([
            ("add f32".to_owned(), Verdict::Right),
            ("softmax f32".to_owned(), Verdict::Plain { reason: reason() }),
            ("rope f32".to_owned(), Verdict::Wrong { reason: reason() }),
        ]);
        for variant in Variant::ALL {
            verdicts.insert(format!("linear {}", variant.name()), Verdict::Without { variant, reason: reason() });
        }
        let text = written(&verdicts);
        assert_eq!(parsed(&text), verdicts);
        assert!(parsed(&text.replace(HEAD, "verdicts 1")).is_empty());
        assert_eq!(parsed(&text.replace("without matrix", "without warp")).len(), verdicts.len() - 1);
    }
}
