//! Which rectangles of a tensor somebody may read and write: plain data.

use crate::Part;

/// What the holder of a right may touch of one tensor.
///
/// Rectangles of one claim may overlap: a submission reads back what it has written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    reads: Vec<Part>,
    writes: Vec<Part>,
}

impl Claim {
    /// To read these rectangles and to write those; what is written may be read as well.
    pub fn new(reads: impl IntoIterator<Item = Part>, writes: impl IntoIterator<Item = Part>) -> Claim {
        let mut claim = Claim::default();
        writes.into_iter().for_each(|part| claim.add_write(part));
        reads.into_iter().for_each(|part| claim.add_read(part));
        claim
    }

    /// Adds a rectangle to read.
    pub fn add_read(&mut self, part: Part) {
        if !self.may_read(&part) {
            self.reads.retain(|known| !part.contains(known));
            self.reads.push(part);
        }
    }

    /// Adds a rectangle to write.
    pub fn add_write(&mut self, part: Part) {
        if !self.may_write(&part) {
            self.writes.retain(|known| !part.contains(known));
            self.reads.retain(|known| !part.contains(known));
            self.writes.push(part);
        }
    }

    /// The rectangles that are read, but for those that lie within one that is written.
    pub fn reads(&self) -> &[Part] {
        &self.reads
    }

    /// The rectangles that are written.
    pub fn writes(&self) -> &[Part] {
        &self.writes
    }

    /// Whether a rectangle lies within one that may be read.
    pub fn may_read(&self, part: &Part) -> bool {
        self.reads.iter().any(|known| known.contains(part)) || self.may_write(part)
    }

    /// Whether a rectangle lies within one that may be written.
    pub fn may_write(&self, part: &Part) -> bool {
        self.writes.iter().any(|known| known.contains(part))
    }

    /// Whether everything that `other` claims may be done with this claim.
    pub fn covers(&self, other: &Claim) -> bool {
        other.reads.iter().all(|part| self.may_read(part)) && other.writes.iter().all(|part| self.may_write(part))
    }

    /// Whether one of the two writes an element that the other reads or writes.
    pub fn conflicts_with(&self, other: &Claim) -> bool {
        let writes_into = |a: &Claim, b: &Claim| {
            a.writes.iter().any(|written| b.reads.iter().chain(&b.writes).any(|touched| touched.overlaps(written)))
        };
        writes_into(self, other) || writes_into(other, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(columns: std::ops::Range<usize>) -> Part {
        Part { rows: 0..4, columns }
    }

    #[test]
    fn a_rectangle_within_another_adds_nothing() {
        let claim = Claim::new([columns(0..2), columns(2..8), columns(0..4)], [columns(0..4), columns(1..3)]);
        assert_eq!(claim.writes(), [columns(0..4)]);
        assert_eq!(claim.reads(), [columns(2..8)]);
        assert!(claim.may_read(&columns(0..4)) && !claim.may_write(&columns(2..8)));
        assert!(claim.covers(&Claim::new([columns(3..4), columns(5..6)], [])));
        assert!(!claim.covers(&Claim::new([columns(1..5)], [])), "no single rectangle holds it");
    }

    #[test]
    fn only_writing_conflicts() {
        let conflict = |a: &Claim, b: &Claim| {
            assert_eq!(a.conflicts_with(b), b.conflicts_with(a));
            a.conflicts_with(b)
        };
        let left = Claim::new([columns(0..8)], [columns(0..4)]);
        assert!(conflict(&left, &left));
        assert!(!conflict(&Claim::new([columns(0..8)], []), &Claim::new([columns(0..8)], [])));
        assert!(conflict(&left, &Claim::new([], [columns(4..8)])), "the right half is being read");
        assert!(!conflict(&left, &Claim::new([columns(4..8)], [])));
        assert!(!conflict(&Claim::new([], [columns(0..4)]), &Claim::new([], [columns(4..8)])));
    }
}
