//! Which bytes of a tensor a copy takes: runs of one length at equal distances.

use std::ops::Range;

use crate::{Part, TensorDesc};

/// Bytes of a tensor: `n` runs of `len` bytes each, one every `distance` bytes.
///
/// That is what a rectangle is, its rows one after the other, and what the same few rows of each head of a KV cache
/// are. All of them are one copy: what a processor asks for a copy, it asks once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRuns {
    /// The first byte of the first run.
    pub start: usize,
    /// Bytes of each run.
    pub len: usize,
    /// Bytes from the beginning of one run to that of the next.
    pub distance: usize,
    /// How many runs.
    pub n: usize,
}

/// Whole rows of a tensor: `n` blocks of `rows` rows each, one every `distance` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowBlocks {
    /// The first row of the first block.
    pub first: usize,
    /// Rows of each block.
    pub rows: usize,
    /// Rows from the beginning of one block to that of the next.
    pub distance: usize,
    /// How many blocks.
    pub n: usize,
}

impl ByteRuns {
    /// The bytes of a rectangle, in as few runs as it has.
    pub fn of_part(desc: &TensorDesc, part: &Part) -> ByteRuns {
        let size = desc.dtype.size();
        let distance = desc.columns * size;
        let start = part.rows.start * distance + part.columns.start * size;
        match part.columns == (0..desc.columns) {
            true => ByteRuns { start, len: part.area() * size, distance: part.area() * size, n: 1 },
            false => ByteRuns { start, len: part.columns.len() * size, distance, n: part.rows.len() },
        }
    }

    /// The bytes of blocks of rows.
    pub fn of_blocks(desc: &TensorDesc, blocks: &RowBlocks) -> ByteRuns {
        let row = desc.columns * desc.dtype.size();
        let RowBlocks { first, rows, distance, n } = *blocks;
        ByteRuns { start: first * row, len: rows * row, distance: distance * row, n }
    }

    /// Bytes of all runs.
    pub fn bytes(&self) -> usize {
        self.len * self.n
    }

    /// Where each run lies in the tensor.
    pub fn iter(self) -> impl ExactSizeIterator<Item = Range<usize>> {
        (0..self.n).map(move |run| self.start + run * self.distance..self.start + run * self.distance + self.len)
    }

    /// From the beginning of the first run to the end of the last.
    pub fn span(&self) -> Range<usize> {
        match self.n {
            0 => self.start..self.start,
            n => self.start..self.start + (n - 1) * self.distance + self.len,
        }
    }
}

impl RowBlocks {
    /// The smallest rectangle of a tensor that holds all blocks.
    pub fn bounds(&self, desc: &TensorDesc) -> Part {
        let rows = match self.n {
            0 => self.first..self.first,
            n => self.first..self.first + (n - 1) * self.distance + self.rows,
        };
        Part { rows, columns: 0..desc.columns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    const DESC: TensorDesc = TensorDesc { rows: 6, columns: 4, dtype: DType::F16 };

    #[test]
    fn whole_rows_are_one_run_and_columns_one_for_each_row() {
        let runs = |rows, columns| ByteRuns::of_part(&DESC, &Part { rows, columns }).iter().collect::<Vec<_>>();
        assert_eq!(runs(1..3, 0..4), vec![8..24]);
        assert_eq!(runs(1..3, 1..3), vec![10..14, 18..22]);
        assert_eq!(ByteRuns::of_part(&DESC, &Part { rows: 2..2, columns: 0..4 }).bytes(), 0);
    }

    #[test]
    fn blocks_are_runs_at_their_distance() {
        let runs = ByteRuns::of_blocks(&DESC, &RowBlocks { first: 1, rows: 1, distance: 3, n: 2 });
        assert_eq!(runs.iter().collect::<Vec<_>>(), vec![8..16, 32..40]);
        assert_eq!((runs.bytes(), runs.span()), (16, 8..40));
    }
}
