//! How weight matrices lie in memory, for all processors alike.
//!
//! A weight matrix is `[rows, columns]` = `[output features, input features]`. Linear operators read it in *panels*,
//! so that on unified memory any row can be computed by any processor without a second copy.
//!
//! A panel holds 16 rows; the last one is filled up with rows of zeros. Columns are filled up with zeros to a multiple
//! of 32, one *group*. A panel is a sequence of 32-bit words, first column first and interleaved over the rows: word
//! `w` of row `r` lies at byte `(w * 16 + r) * 4`. So one 64-byte line holds the same columns of 16 rows, a vector
//! lane (or a GPU invocation) keeps to its row, and no kernel sums across lanes. What a word holds:
//!
//! | format | columns in a word | in which order |
//! |---|---|---|
//! | f32 | 1 | |
//! | f16, bf16 | 2 | lower half first |
//! | w8g32 | 4 | lowest byte first, signed, -127 to 127 |
//! | w4g32 | 8 | word `i` (0 to 3) of a group holds columns `4i..4i+4` of the group in the low nibbles of its bytes and columns `16+4i..16+4i+4` in the high ones; a nibble `q` stands for `q - 8` |
//!
//! In the quantised formats the words of all groups are followed by the scales: one f16 for each group and row, that
//! of row `r` in group `g` at byte `(g * 16 + r) * 2`. A weight is its scale times its integer. Panels begin and end
//! on multiples of 64 bytes.
//!
//! The values are those of the published GGUF formats: w8g32 holds what Q8_0 holds, w4g32 what Q4_0 holds.
//!
//! Tables that are looked up row by row (embeddings, biases, norms) stay row-major: [`Arrangement::Rows`].

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::DType;

/// What the elements of a weight matrix are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WeightFormat {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// 8-bit integers, groups of 32 columns that share an f16 scale: 8.5 bits a weight.
    W8G32,
    /// 4-bit integers, groups of 32 columns that share an f16 scale: 4.5 bits a weight.
    W4G32,
}

impl WeightFormat {
    /// All formats, widest first.
    pub const ALL: [WeightFormat; 5] =
        [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16, WeightFormat::W8G32, WeightFormat::W4G32];

    /// True for the formats with scales.
    pub const fn is_quantized(self) -> bool {
        matches!(self, WeightFormat::W8G32 | WeightFormat::W4G32)
    }

    /// Bits of one element, without its share of the scale.
    pub const fn element_bits(self) -> usize {
        match self {
            WeightFormat::F32 => 32,
            WeightFormat::F16 | WeightFormat::Bf16 => 16,
            WeightFormat::W8G32 => 8,
            WeightFormat::W4G32 => 4,
        }
    }

    /// Bytes of one group (32 columns) of a panel (16 rows), without scales.
    pub const fn group_bytes(self) -> usize {
        WeightLayout::GROUP_COLUMNS * WeightLayout::PANEL_ROWS * self.element_bits() / 8
    }

    /// Bytes of a panel with so many columns, scales included.
    pub const fn panel_bytes(self, columns: usize) -> usize {
        let n_groups = columns.div_ceil(WeightLayout::GROUP_COLUMNS);
        let scales = if self.is_quantized() { n_groups * WeightLayout::PANEL_ROWS * 2 } else { 0 };
        (n_groups * self.group_bytes() + scales).next_multiple_of(WeightLayout::PANEL_ALIGNMENT)
    }

    /// Columns that one 32-bit word holds.
    pub const fn columns_per_word(self) -> usize {
        32 / self.element_bits()
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WeightFormat::F32 => "f32",
            WeightFormat::F16 => "f16",
            WeightFormat::Bf16 => "bf16",
            WeightFormat::W8G32 => "w8g32",
            WeightFormat::W4G32 => "w4g32",
        })
    }
}

impl FromStr for WeightFormat {
    type Err = UnknownWeightFormat;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        WeightFormat::ALL
            .into_iter()
            .find(|format| format.to_string() == name)
            .ok_or_else(|| UnknownWeightFormat { name: name.to_owned() })
    }
}

/// A name that is no weight format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown weight format {name:?}; known are f32, f16, bf16, w8g32 and w4g32")]
pub struct UnknownWeightFormat {
    /// The name.
    pub name: String,
}

impl From<WeightFormat> for Option<DType> {
    /// The element type of the formats that are plain numbers.
    fn from(format: WeightFormat) -> Self {
        match format {
            WeightFormat::F32 => Some(DType::F32),
            WeightFormat::F16 => Some(DType::F16),
            WeightFormat::Bf16 => Some(DType::BF16),
            WeightFormat::W8G32 | WeightFormat::W4G32 => None,
        }
    }
}

/// In which order the elements lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arrangement {
    /// Interleaved panels of 16 rows, for linear operators.
    Panels,
    /// Row after row without padding, for tables; float formats only.
    Rows,
}

/// Format, shape and order of a weight matrix: everything needed to find an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightLayout {
    /// What the elements are.
    pub format: WeightFormat,
    /// In which order they lie.
    pub arrangement: Arrangement,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub columns: usize,
}

impl WeightLayout {
    /// Rows of a panel.
    pub const PANEL_ROWS: usize = 16;
    /// Columns of a group.
    pub const GROUP_COLUMNS: usize = 32;
    /// Panels begin and end on multiples of this many bytes.
    pub const PANEL_ALIGNMENT: usize = 64;

    /// A matrix in panels.
    pub fn panels(format: WeightFormat, rows: usize, columns: usize) -> WeightLayout {
        WeightLayout { format, arrangement: Arrangement::Panels, rows, columns }
    }

    /// A row-major table.
    ///
    /// # Panics
    /// When the format is quantised: tables hold plain numbers.
    pub fn table(format: WeightFormat, rows: usize, columns: usize) -> WeightLayout {
        assert!(!format.is_quantized(), "a table cannot be {format}");
        WeightLayout { format, arrangement: Arrangement::Rows, rows, columns }
    }

    /// Number of panels, the last of which may be filled up.
    pub fn n_panels(&self) -> usize {
        self.rows.div_ceil(Self::PANEL_ROWS)
    }

    /// Number of groups in a row, the last of which may be filled up.
    pub fn n_groups(&self) -> usize {
        self.columns.div_ceil(Self::GROUP_COLUMNS)
    }

    /// Bytes of a panel before its scales.
    pub fn panel_quants_bytes(&self) -> usize {
        self.n_groups() * self.format.group_bytes()
    }

    /// Bytes of a panel.
    pub fn panel_bytes(&self) -> usize {
        self.format.panel_bytes(self.columns)
    }

    /// Bytes of the whole matrix.
    pub fn bytes(&self) -> usize {
        match self.arrangement {
            Arrangement::Panels => self.n_panels() * self.panel_bytes(),
            Arrangement::Rows => self.rows * self.columns * self.format.element_bits() / 8,
        }
    }

    /// Where some rows lie, which begin on a panel and end on one or with the matrix.
    ///
    /// # Panics
    /// When the range does not, or the matrix is not in panels.
    pub fn byte_range(&self, rows: Range<usize>) -> Range<usize> {
        assert_eq!(self.arrangement, Arrangement::Panels, "byte ranges are of panels");
        assert!(rows.end <= self.rows && rows.start <= rows.end, "rows {rows:?} of a matrix with {}", self.rows);
        assert!(
            rows.start.is_multiple_of(Self::PANEL_ROWS)
                && (rows.end.is_multiple_of(Self::PANEL_ROWS) || rows.end == self.rows),
            "rows {rows:?} are not whole panels of {} rows",
            Self::PANEL_ROWS,
        );
        let panel = self.panel_bytes();
        rows.start / Self::PANEL_ROWS * panel..rows.end.div_ceil(Self::PANEL_ROWS) * panel
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_from_the_layout() {
        let bytes = |format, rows, columns| WeightLayout::panels(format, rows, columns).bytes();
        assert_eq!(bytes(WeightFormat::F32, 16, 32), 16 * 32 * 4);
        assert_eq!(bytes(WeightFormat::Bf16, 17, 33), 2 * 16 * 64 * 2);
        assert_eq!(bytes(WeightFormat::W8G32, 16, 64), 2 * (512 + 32));
        // 256 + 32 bytes are rounded up to a multiple of 64.
        assert_eq!(bytes(WeightFormat::W4G32, 16, 32), 320);
        assert_eq!(bytes(WeightFormat::W4G32, 2048, 2048), 2048 * 2048 * 9 / 16);
    }

    #[test]
    fn names_read_back() {
        for format in WeightFormat::ALL {
            assert_eq!(format.to_string().parse::<WeightFormat>().unwrap(), format);
        }
        assert!("q4_0".parse::<WeightFormat>().unwrap_err().to_string().contains("q4_0"));
    }

    #[test]
    #[should_panic(expected = "not whole panels")]
    fn a_cut_inside_a_panel_is_refused() {
        WeightLayout::panels(WeightFormat::F32, 64, 32).byte_range(0..24);
    }
}
