//! Which rectangles of an output are computed apart.

use std::ops::Range;

/// A rectangle of an `[rows, columns]` matrix.
///
/// For the output of a linear operator rows are positions (M) and columns are weight rows (N).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    /// Rows of the matrix.
    pub rows: Range<usize>,
    /// Columns of the matrix.
    pub columns: Range<usize>,
}

impl Part {
    /// All of a matrix.
    pub fn whole(rows: usize, columns: usize) -> Part {
        Part { rows: 0..rows, columns: 0..columns }
    }

    /// Number of elements.
    pub fn area(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// True when every element of the other is in this one.
    pub fn contains(&self, other: &Part) -> bool {
        let contains = |a: &Range<usize>, b: &Range<usize>| a.start <= b.start && b.end <= a.end;
        contains(&self.rows, &other.rows) && contains(&self.columns, &other.columns)
    }

    /// True when the two have an element in common.
    pub fn overlaps(&self, other: &Part) -> bool {
        let meet = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
        meet(&self.rows, &other.rows) && meet(&self.columns, &other.columns)
    }
}

/// Rectangles that cover a matrix exactly once.
///
/// Cutting columns is a weight-row cut, cutting rows a sequence cut, both a hybrid cut. The inner dimension of a
/// product is never cut, so that no processor waits for another's partial sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    rows: usize,
    columns: usize,
    parts: Vec<Part>,
}

impl Partition {
    /// Checks that the parts cover a `[rows, columns]` matrix exactly once.
    pub fn new(rows: usize, columns: usize, parts: Vec<Part>) -> Result<Partition, PartitionError> {
        Partition::check(rows, columns, parts.iter())?;
        Ok(Partition { rows, columns, parts })
    }

    /// As [`Partition::new`], of parts that stay where they are.
    pub fn check<'p>(
        rows: usize,
        columns: usize,
        parts: impl Iterator<Item = &'p Part> + Clone,
    ) -> Result<(), PartitionError> {
        let mut covered = 0;
        for (idx, part) in parts.clone().enumerate() {
            if part.rows.is_empty() || part.columns.is_empty() {
                return Err(PartitionError::Empty { part: part.clone() });
            }
            if part.rows.end > rows || part.columns.end > columns {
                return Err(PartitionError::Outside { part: part.clone(), rows, columns });
            }
            if let Some(other) = parts.clone().take(idx).find(|other| other.overlaps(part)) {
                return Err(PartitionError::Overlap { first: other.clone(), second: part.clone() });
            }
            covered += part.area();
        }
        // The parts lie inside and apart, so they cover everything exactly when their areas add up.
        match covered == rows * columns {
            true => Ok(()),
            false => Err(PartitionError::Gap { covered, expected: rows * columns }),
        }
    }

    /// All in one part.
    pub fn whole(rows: usize, columns: usize) -> Partition {
        Partition { rows, columns, parts: vec![Part::whole(rows, columns)] }
    }

    /// Rows and columns of the matrix.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// The parts, in the order in which they were given.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }
}

/// Why rectangles are not a partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// A part has no element.
    #[error("part {part:?} is empty")]
    Empty {
        /// The part.
        part: Part,
    },
    /// A part reaches over the edge.
    #[error("part {part:?} reaches outside a matrix of {rows} x {columns}")]
    Outside {
        /// The part.
        part: Part,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
    },
    /// Two parts share an element.
    #[error("parts {first:?} and {second:?} overlap")]
    Overlap {
        /// The earlier one.
        first: Part,
        /// The later one.
        second: Part,
    },
    /// Some element is in no part.
    #[error("the parts cover {covered} of {expected} elements")]
    Gap {
        /// Elements in some part.
        covered: usize,
        /// Elements of the matrix.
        expected: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(rows: Range<usize>, columns: Range<usize>) -> Part {
        Part { rows, columns }
    }

    #[test]
    fn exact_covers_are_accepted() {
        for parts in [
            vec![part(0..4, 0..6)],
            vec![part(0..4, 0..2), part(0..4, 2..6)],
            vec![part(0..3, 0..6), part(3..4, 0..6)],
            vec![part(0..3, 0..2), part(0..3, 2..6), part(3..4, 0..6)],
        ] {
            assert_eq!(Partition::new(4, 6, parts.clone()).unwrap().parts(), parts);
        }
    }

    #[test]
    fn every_flaw_is_named() {
        let check = |parts| Partition::new(4, 6, parts).unwrap_err();
        assert!(matches!(check(vec![part(0..4, 0..0)]), PartitionError::Empty { .. }));
        assert!(matches!(check(vec![part(0..4, 0..7)]), PartitionError::Outside { .. }));
        assert!(matches!(check(vec![part(0..4, 0..4), part(0..4, 3..6)]), PartitionError::Overlap { .. }));
        assert_eq!(check(vec![part(0..4, 0..5)]), PartitionError::Gap { covered: 20, expected: 24 });
    }
}
