//! Element types and weight formats as kernels know them.

/// The type of the elements of a tensor or table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl Element {
    /// All types.
    pub const ALL: [Element; 3] = [Element::F32, Element::F16, Element::Bf16];

    /// A short name.
    pub const fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::F16 => "f16",
            Element::Bf16 => "bf16",
        }
    }
}

/// What the words of a weight matrix in panels hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One column in a word.
    F32,
    /// Two columns in a word, the lower half first.
    F16,
    /// Two columns in a word, the lower half first.
    Bf16,
    /// Four signed bytes in a word; groups of 32 columns share an f16 scale.
    W8G32,
    /// Eight nibbles in a word; word `i` of a group's four holds columns `4i..4i + 4` in the low nibbles of its bytes and
    /// `16 + 4i..16 + 4i + 4` in the high ones; a nibble `q` stands for `q - 8`. Groups of 32 columns share an f16 scale.
    W4G32,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 5] = [Format::F32, Format::F16, Format::Bf16, Format::W8G32, Format::W4G32];

    /// A short name.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::W8G32 => "w8g32",
            Format::W4G32 => "w4g32",
        }
    }

    /// Words in which 32 columns of one row lie.
    pub const fn words_per_group(self) -> u32 {
        match self {
            Format::F32 => 32,
            Format::F16 | Format::Bf16 => 16,
            Format::W8G32 => 8,
            Format::W4G32 => 4,
        }
    }
}
